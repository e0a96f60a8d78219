// Which processes are there: for tests that promise to leave none behind.
import { readdirSync, readFileSync } from 'node:fs';

/** Living processes below `pid`, zombies left out. Reads /proc. */
export function descendantsOf(pid: number): number[] {
  const children = new Map<number, number[]>();
  for (const name of readdirSync('/proc')) {
    const stat = /^\d+$/.test(name) ? statOf(Number(name)) : null;
    if (stat && stat.state !== 'Z')
      children.set(stat.parent, [...(children.get(stat.parent) ?? []), Number(name)]);
  }
  const below = (parent: number): number[] =>
    (children.get(parent) ?? []).flatMap((child) => [child, ...below(child)]);
  return below(pid);
}

export function isAlive(pid: number): boolean {
  const stat = statOf(pid);
  return stat !== null && stat.state !== 'Z';
}

/** True once all are gone; false when one is still there after `limitMs`. */
export async function allGone(pids: readonly number[], limitMs = 10_000): Promise<boolean> {
  const deadlineMs = performance.now() + limitMs;
  while (pids.some(isAlive)) {
    if (performance.now() > deadlineMs) return false;
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  return true;
}

function statOf(pid: number): { readonly state: string; readonly parent: number } | null {
  try {
    // pid (name, which may hold anything) state ppid …
    const [state, parent] = readFileSync(`/proc/${pid}/stat`, 'utf8')
      .replace(/^.*\) /s, '')
      .split(' ');
    return { state: state!, parent: Number(parent) };
  } catch {
    return null;
  }
}
