// What all commands share: light start-up, help, errors in words and in JSON.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { engineOptions } from '../../src/cli/engine-flags.js';
import { startProgress } from '../../src/cli/progress.js';
import { runCommand } from '../command-runner.js';

test('--version says the version', async () => {
  const { exitCode, stdout, stderr } = await runCommand(['--version']);
  assert.is(exitCode, 0);
  assert.match(stdout, /^vllm-pd\/\d+\.\d+\.\d+ /);
  assert.is(stderr, '');
});

test('--help lists the commands, and a command has examples and its exit codes', async () => {
  const { exitCode, stdout } = await runCommand(['--help']);
  assert.is(exitCode, 0);
  for (const command of ['serve', 'cache-query']) assert.match(stdout, command);
  const serve = await runCommand(['serve', '--help']);
  assert.match(serve.stdout, /EXAMPLES\n {2}\$ vllm-pd serve/);
  assert.match(serve.stdout, 'exit code 0');
  assert.match(serve.stdout, '--[no-]enable-prefix-caching');
  assert.match(serve.stdout, /--num-blocks=<value> +\[default: 1024\]/);
});

for (const [args, sentence] of [
  [['cook'], 'There is no command `cook`.'],
  [['bench', 'cook'], 'There is no command `bench cook`.'],
  [['serve', 'dinner'], '`serve` takes no argument but received `dinner`.'],
] as const) {
  test(`\`${args.join(' ')}\`, which does not exist, ends with a sentence, also in JSON`, async () => {
    const { exitCode, stdout, stderr } = await runCommand(args);
    assert.is(exitCode, 2);
    assert.is(stdout, '');
    assert.match(stderr, sentence);
    assert.match(stderr, /See `vllm-pd( bench| serve)? --help`/);
    const inJson = await runCommand([...args, '--json']);
    assert.is(inJson.exitCode, 2);
    assert.is(inJson.stderr, '');
    assert.is((JSON.parse(inJson.stdout) as { error: { message: string } }).error.message, sentence);
  });
}

for (const [args, suggestion] of [
  [['serv'], 'Did you mean `serve`?'],
  [['help'], 'Did you mean `--help`?'],
  [['version'], 'Did you mean `--version`?'],
  [['bench', 'mutli-turn'], 'Did you mean `bench multi-turn`?'],
  [['serve', '--prot', '1'], 'Did you mean --port?'],
] as const) {
  test(`\`${args.join(' ')}\`, a slip of the finger, is told what was probably meant`, async () => {
    const { exitCode, stderr } = await runCommand(args);
    assert.is(exitCode, 2);
    assert.match(stderr, suggestion);
  });
}

test('what is like nothing that exists is not guessed at', async () => {
  for (const args of [['dinner'], ['serve', '--dinner']]) {
    assert.not.match((await runCommand(args)).stderr, 'Did you mean');
  }
});

/** Reports every module that is imported, one a line on stderr. */
const importTracer = `data:text/javascript,${encodeURIComponent(`
  import { register } from 'node:module';
  const hooks = "export async function resolve(s, c, next) { const r = await next(s, c); process._rawDebug('import ' + r.url); return r; }";
  register('data:text/javascript,' + encodeURIComponent(hooks));
`)}`;

const heavy =
  /\/node_modules\/(undici|zod|pino|prom-client|@huggingface)\/|\/src\/(native|engine|model|core)[./]/;

for (const args of [['--version'], ['--help'], ['serve', '--port', 'x'], ['cache-query']]) {
  test(`\`${args.join(' ')}\` loads nothing that only a running server needs`, async () => {
    const { stderr } = await runCommand(args, 30_000, ['--import', importTracer]);
    const imports = stderr.match(/^import .+$/gm) ?? [];
    assert.ok(imports.length > 5, stderr);
    // Without the manifest oclif looks into every command; these must be light as well.
    assert.equal(
      imports.filter((line) => heavy.test(line)),
      [],
    );
  });
}

test('with --json an error is an object on stdout', async () => {
  for (const [args, code] of [
    [['serve', '--json', '--port', 'x'], 'INVALID_ARGUMENT'],
    [['cache-query', '--json'], 'INVALID_ARGUMENT'],
    [['cache-query', 'a', '--json', '--url', 'http://127.0.0.1:9'], 'NODE_UNREACHABLE'],
  ] as const) {
    const { exitCode, stdout, stderr } = await runCommand(args);
    const { error } = JSON.parse(stdout) as {
      error: { code: string; message: string; exit_code: number; suggestions: string[] };
    };
    assert.is(error.code, code);
    assert.is(error.exit_code, exitCode);
    assert.match(error.message, /\S+ \S+/);
    assert.not.match(error.message, '\n');
    assert.is(stderr, '');
  }
});

test('only flags that were given become options, so that they can be laid over others', () => {
  assert.equal(engineOptions({}), { cache: {}, scheduler: {}, kvTransfer: {} });
  assert.equal(engineOptions({ 'num-blocks': 7, 'kv-lease-duration': 1.5, 'enable-prefix-caching': false }), {
    cache: { numBlocks: 7, enablePrefixCaching: false },
    scheduler: {},
    kvTransfer: { kvLeaseDurationMs: 1500 },
  });
});

test('an invisible progress bar writes nothing', async () => {
  const progress = await startProgress('turns', 3, false);
  progress.update(1, 'x');
  progress.setTotal(4);
  progress.stop();
});

test.run();
