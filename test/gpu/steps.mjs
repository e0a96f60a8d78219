// The steps of a run on a GPU: programs, one after the other, whose output is kept. A program that ends with 77 has
// nothing to do on this machine, and its last line says why.
import { spawnSync } from 'node:child_process';
import path from 'node:path';

const skippedStatus = 77;

export class Steps {
  /** Each with name, command, state (`passed`, `failed` or `skipped`), reason, seconds, stdout, stderr. */
  done = [];
  #root;
  #env;

  constructor(root, env) {
    this.#root = root;
    this.#env = env;
  }

  starts(command) {
    return spawnSync(command, ['--version'], { stdio: 'ignore' }).status === 0;
  }

  run(name, command, args) {
    console.log(`# ${name}`);
    const startedAt = performance.now();
    const { status, signal, error, stdout, stderr } = spawnSync(command, args, {
      cwd: this.#root,
      env: this.#env,
      encoding: 'utf8',
      maxBuffer: 2 ** 28,
    });
    process.stdout.write(`${stdout ?? ''}${stderr ?? ''}`);
    const seconds = (performance.now() - startedAt) / 1000;
    const state = status === 0 ? 'passed' : status === skippedStatus ? 'skipped' : 'failed';
    const reason = state === 'passed' ? null : reasonOf({ status, signal, error, stdout, stderr });
    const said = [path.basename(command), ...args].join(' ');
    this.done.push({ name, command: said, state, reason, seconds, stdout, stderr });
  }

  skip(name, reason) {
    console.log(`# ${name}\nskipped: ${reason}`);
    this.done.push({ name, command: null, state: 'skipped', reason, seconds: 0, stdout: '', stderr: '' });
  }

  failed() {
    return this.done.filter(({ state }) => state === 'failed');
  }
}

function reasonOf({ status, signal, error, stdout, stderr }) {
  if (error) return error.message;
  const lines = `${stdout}\n${stderr}`.trim().split('\n');
  const why = lines.find((line) => line.startsWith('skipped: '))?.slice('skipped: '.length);
  if (status === skippedStatus) return why ?? 'it did not say why';
  return `ended with ${signal ?? status}: ${(lines.at(-1) ?? '').slice(0, 300)}`;
}
