// A progress bar on stderr that costs nothing where nobody would see it.

export interface Progress {
  /** `note` is shown behind the bar, e.g. the turn being played. */
  update(done: number, note?: string): void;
  setTotal(total: number): void;
  stop(): void;
}

const silent: Progress = { update() {}, setTotal() {}, stop() {} };

/** Drawn from the first update on. cli-progress is loaded only if `visible`. */
export async function startProgress(label: string, total: number, visible: boolean): Promise<Progress> {
  if (!visible) return silent;
  const { default: cliProgress } = await import('cli-progress');
  const bar = new cliProgress.SingleBar({
    format: `${label} {bar} {value}/{total} {note}`,
    stream: process.stderr,
    hideCursor: true,
    clearOnComplete: true,
  });
  let currentTotal = total;
  return {
    update(done, note) {
      if (!bar.isActive) bar.start(currentTotal, 0, { note: '' });
      bar.update(done, note === undefined ? {} : { note });
    },
    setTotal(newTotal) {
      currentTotal = newTotal;
      bar.setTotal(newTotal);
    },
    stop: () => bar.stop(),
  };
}
