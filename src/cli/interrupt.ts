// Ctrl-C in commands: the first one stops in order, the second one at once.

let interrupted = false;

/** True once the user pressed Ctrl-C; a command that fails afterwards ends with exit code 130. */
export function wasInterrupted(): boolean {
  return interrupted;
}

/**
 * Calls `stop` on the first SIGINT or SIGTERM and sets the exit code to 130; the command then ends by itself once its
 * work has stopped. A second signal ends the process on the spot: nodes that it started notice and end too.
 * Returns a function that takes the handlers away again.
 */
export function onInterrupt(stop: () => void | Promise<void>): () => void {
  const handle = () => {
    if (interrupted) process.exit(130);
    interrupted = true;
    process.exitCode = 130;
    Promise.resolve()
      .then(stop)
      .catch((error: unknown) => {
        process.stderr.write(`Could not stop in order: ${String(error)}\n`);
        process.exit(130);
      });
  };
  process.on('SIGINT', handle);
  process.on('SIGTERM', handle);
  return () => {
    process.off('SIGINT', handle);
    process.off('SIGTERM', handle);
  };
}
