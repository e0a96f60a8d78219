// What a process of its own says in its log: loggers write to stderr itself.
import { spawnSync } from 'node:child_process';

export interface LogLine {
  readonly msg: string;
  readonly node?: string;
}

/** Runs `script` as a module that imports `names` from `module` (below dist/src), at log level `level` (default: none is set). */
export function logged(module: string, names: string, script: string, level?: string): readonly LogLine[] {
  const url = new URL(`../src/${module}`, import.meta.url).href;
  const code = `import { ${names} } from ${JSON.stringify(url)};\n${script}`;
  const { stderr } = spawnSync(process.execPath, ['--input-type=module', '-e', code], {
    encoding: 'utf8',
    env: { ...process.env, VLLM_PD_LOG_LEVEL: level },
    timeout: 30_000,
  });
  const lines = stderr.split('\n').filter((line) => line !== '');
  return lines.map((line) => JSON.parse(line) as LogLine);
}
