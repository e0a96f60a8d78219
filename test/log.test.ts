// Logs: which level is heard, and that a process that ends with its peers says nothing of their silence.
import { spawnSync } from 'node:child_process';
import { test } from 'uvu';
import * as assert from 'uvu/assert';

/** What a process that runs `script`, with `createLogger` and `endQuietly` at hand, says on stderr. */
function said(script: string, level?: string): readonly string[] {
  const module = new URL('../src/log.js', import.meta.url).href;
  const code = `import { createLogger, endQuietly } from ${JSON.stringify(module)};\n${script}`;
  const { stderr } = spawnSync(process.execPath, ['--input-type=module', '-e', code], {
    encoding: 'utf8',
    env: { ...process.env, VLLM_PD_LOG_LEVEL: level },
    timeout: 30_000,
  });
  const lines = stderr.split('\n').filter((line) => line !== '');
  return lines.map((line) => (JSON.parse(line) as { readonly msg: string }).msg);
}

test('warnings are heard, notes only when asked for', () => {
  const script = "const log = createLogger('x'); log.info('a note'); log.warn('a warning');";
  assert.equal(said(script), ['a warning']);
  assert.equal(said(script, 'info'), ['a note', 'a warning']);
});

test('a process that ends with its peers logs errors alone, through loggers it already has', () => {
  const script =
    "const log = createLogger('x'); endQuietly(); log.warn('a peer is gone'); log.error('an error');";
  assert.equal(said(script), ['an error']);
});

test.run();
