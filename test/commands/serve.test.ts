// vllm-pd serve as a process: what it prints, how it ends, and that it takes its nodes along.
import { once } from 'node:events';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { type RunningCommand, runCommand, startCommand } from '../command-runner.js';
import { allGone, descendantsOf, isAlive } from '../processes.js';
import { withCluster } from '../with-cluster.js';

const small = ['--model', 'tiny', '--num-threads', '1', '--num-blocks', '64'];

interface Served {
  readonly role: string;
  readonly url: string;
  readonly pid: number;
}

async function servedBy(command: RunningCommand): Promise<readonly Served[]> {
  return (JSON.parse(await command.firstLine) as { readonly served: readonly Served[] }).served;
}

async function complete(url: string): Promise<string> {
  const body = JSON.stringify({ prompt: 'a b c', max_tokens: 4, temperature: 0 });
  const response = await fetch(`${url}/v1/completions`, { method: 'POST', body });
  assert.is(response.status, 200);
  const { choices } = (await response.json()) as { choices: readonly { readonly text: string }[] };
  return choices[0]!.text;
}

/** Starts `serve --json`, hands over what it serves, and sees to it that nothing stays. */
async function withServe(
  args: readonly string[],
  work: (served: readonly Served[], command: RunningCommand) => Promise<void>,
): Promise<void> {
  // A proxy alone runs no model.
  const engine = args.includes('proxy') ? [] : small;
  const command = startCommand(['serve', '--json', '--port', '0', ...engine, ...args]);
  try {
    await work(await servedBy(command), command);
  } finally {
    command.child.kill('SIGKILL');
    await command.result;
  }
}

test('Ctrl-C stops the proxy and every node, with exit code 0', async () => {
  await withServe([], async (served, command) => {
    assert.equal(
      served.map(({ role }) => role),
      ['proxy', 'prefill', 'decode'],
    );
    assert.is((await complete(served[0]!.url)).length > 0, true);
    command.interrupt();
    const { exitCode, stdout } = await command.result;
    assert.is(exitCode, 0);
    assert.is(stdout.trim().split('\n').length, 1);
    assert.not(served.some(({ pid }) => isAlive(pid)));
  });
});

test('SIGTERM to serve alone does the same', async () => {
  await withServe([], async (served, command) => {
    process.kill(command.pid, 'SIGTERM');
    assert.is((await command.result).exitCode, 0);
    assert.not(served.some(({ pid }) => isAlive(pid)));
  });
});

test('SIGTERM to one node: what runs ends with abort when the drain time is over, nothing new is taken', async () => {
  await withServe(['--role', 'both', '--drain-timeout', '0.1'], async ([node], command) => {
    const { url } = node!;
    const body = { prompt: 'count without end', max_tokens: 900, ignore_eos: true, stream: true };
    const running = await fetch(`${url}/v1/completions`, { method: 'POST', body: JSON.stringify(body) });
    const reader = running.body!.getReader();
    let text = Buffer.from((await reader.read()).value!).toString('utf8');
    command.child.kill('SIGTERM');
    const refused = async () => {
      const response = await fetch(`${url}/v1/completions`, { method: 'POST', body: '{"prompt":"x"}' });
      await response.arrayBuffer();
      return response;
    };
    let late = await refused();
    while (late.status === 200) late = await refused();
    assert.equal([late.status, late.headers.get('retry-after')], [503, '5']);
    for (let part = await reader.read(); !part.done; part = await reader.read()) {
      text += Buffer.from(part.value).toString('utf8');
    }
    const events = text.trim().split('\n\n');
    assert.is(events.at(-1), 'data: [DONE]');
    assert.match(text, '"finish_reason":"abort"');
    const { exitCode } = await command.result;
    assert.is(exitCode, 0);
  });
});

test('Ctrl-C with an answer under way: its client sees it end with abort when the drain time is over', async () => {
  await withServe(['--drain-timeout', '0.1'], async ([proxy], command) => {
    const body = { prompt: 'count without end', max_tokens: 900, ignore_eos: true, stream: true };
    const running = await fetch(`${proxy!.url}/v1/completions`, {
      method: 'POST',
      body: JSON.stringify(body),
    });
    const reader = running.body!.getReader();
    let text = Buffer.from((await reader.read()).value!).toString('utf8');
    command.interrupt();
    for (let part = await reader.read(); !part.done; part = await reader.read()) {
      text += Buffer.from(part.value).toString('utf8');
    }
    const events = text.trim().split('\n\n');
    assert.is(events.at(-1), 'data: [DONE]');
    assert.match(text, '"finish_reason":"abort"');
    const { exitCode, stderr } = await command.result;
    assert.equal([exitCode, stderr], [0, '']);
  });
});

test('Ctrl-C while it starts ends it with 130 and nothing stays', async () => {
  const command = startCommand(['serve', '--json', '--port', '0', ...small]);
  let pids: readonly number[] = [];
  while (pids.length < 2) {
    await new Promise((resolve) => setTimeout(resolve, 10));
    pids = descendantsOf(command.pid);
  }
  process.kill(command.pid, 'SIGINT');
  const { exitCode, stdout } = await command.result;
  assert.is(exitCode, 130);
  assert.is((JSON.parse(stdout) as { error: { code: string } }).error.code, 'INTERRUPTED');
  assert.ok(await allGone(pids, 0));
});

test('a second Ctrl-C does not wait for a node that hangs, and the nodes still end', async () => {
  await withServe([], async (served, command) => {
    const node = served[1]!;
    process.kill(node.pid, 'SIGSTOP');
    process.kill(command.pid, 'SIGINT');
    await new Promise((resolve) => setTimeout(resolve, 300));
    assert.ok(isAlive(command.pid));
    process.kill(command.pid, 'SIGINT');
    assert.is((await command.result).exitCode, 130);
    process.kill(node.pid, 'SIGCONT');
    assert.ok(await allGone(served.map(({ pid }) => pid)));
  });
});

test('when serve is killed, its nodes notice and end', async () => {
  await withServe([], async (served, command) => {
    process.kill(command.pid, 'SIGKILL');
    await command.result;
    assert.ok(await allGone(served.map(({ pid }) => pid)));
  });
});

test('a node that dies ends serve with exit code 5, a sentence, and no other node left', async () => {
  await withServe([], async (served, command) => {
    process.kill(served[2]!.pid, 'SIGKILL');
    const { exitCode, stdout } = await command.result;
    assert.is(exitCode, 5);
    const { error } = JSON.parse(stdout.slice(stdout.indexOf('\n'))) as {
      error: { code: string; message: string };
    };
    assert.is(error.code, 'NODE_UNREACHABLE');
    assert.match(error.message, `The decode node (pid ${served[2]!.pid}) was ended by SIGKILL.`);
    assert.ok(
      await allGone(
        served.map(({ pid }) => pid),
        0,
      ),
    );
  });
});

test('an occupied port ends serve with exit code 4 and says what to do', async () => {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  try {
    for (const flag of ['--port', '--prefill-port']) {
      const others = flag === '--port' ? [] : ['--port', '0'];
      const { exitCode, stdout, stderr } = await runCommand([
        'serve',
        ...small,
        ...others,
        flag,
        String(port),
      ]);
      assert.is(exitCode, 4, stderr);
      assert.is(stdout, '');
      assert.match(stderr, new RegExp(`Error: .*Port ${port} on 127.0.0.1 is already in use`));
      assert.match(stderr, 'choose another port');
    }
  } finally {
    server.close();
  }
});

test('people get a table', async () => {
  const command = startCommand(['serve', '--port', '0', ...small]);
  await command.firstLine;
  command.interrupt();
  const { exitCode, stdout } = await command.result;
  assert.is(exitCode, 0);
  assert.match(stdout, /proxy .*http:\/\/127\.0\.0\.1:\d+/);
  assert.match(stdout, /prefill .*127\.0\.0\.1:\d+ /);
  assert.match(stdout, 'Ctrl-C stops all of it.');
});

test('--role both is one node that answers by itself, in the same words as P and D', async () => {
  let alone = '';
  await withServe(['--role', 'both'], async (served, command) => {
    assert.is(served.length, 1);
    alone = await complete(served[0]!.url);
    process.kill(command.pid, 'SIGTERM');
    assert.is((await command.result).exitCode, 0);
  });
  await withServe([], async (served) => assert.is(await complete(served[0]!.url), alone));
});

test('--role proxy serves nodes that stand somewhere else', async () => {
  await withCluster({}, async (cluster) => {
    const urls = ['--prefill-url', cluster.prefill[0]!.url, '--decode-url', cluster.decode[0]!.url];
    await withServe(['--role', 'proxy', ...urls], async (served, command) => {
      await complete(served[0]!.url);
      const { numCachedBlocks } = await cluster.stateOf(cluster.prefill[0]!);
      assert.is(typeof numCachedBlocks, 'number');
      await cluster.assertWhole();
      const metrics = await (await fetch(`${served[0]!.url}/metrics`)).text();
      assert.match(
        metrics,
        `vllm_pd:proxy_hop_seconds_count{hop="prefill",node="${cluster.prefill[0]!.url}"} 1`,
      );
      process.kill(command.pid, 'SIGINT');
      assert.is((await command.result).exitCode, 0);
    });
  });
});

const refused: readonly (readonly [readonly string[], RegExp])[] = [
  [['--port', '70000'], /less than or equal to 65535/],
  [['--port', '-1'], /greater than or equal to 0/],
  [['--block-size', '0'], /greater than or equal to 1/],
  [['--num-blocks', 'many'], /Expected an integer but received: many/],
  [['--num-blocks', '1'], /greater than or equal to 2/],
  [['--max-num-seqs', '1e3'], /Expected an integer/],
  [['--kv-transfer', 'tri'], /Expected --kv-transfer=tri to be one of: uni, bi/],
  [['--kv-lookup', 'guess'], /query, ticket/],
  [['--kv-lease-duration', '0'], /positive number of seconds but received: 0/],
  [['--kv-lease-duration', 'soon'], /positive number of seconds but received: soon/],
  [['--decoder-kv-blocks-ttl', '-3'], /positive number of seconds/],
  [['--role', 'chef'], /prefill, decode, both, proxy/],
  [['--prefill', '0'], /greater than or equal to 1/],
  [
    ['--role', 'proxy', '--decode-url', 'http://127.0.0.1:1', '--num-blocks', '9'],
    /--num-blocks is for nodes: a proxy alone runs no model/,
  ],
  [['--role', 'both', '--trust-kv-transfer-params'], /--trust-kv-transfer-params is for a proxy/],
  [['--role', 'decode', '--prefill', '2'], /--prefill is for a cluster and does not go with --role/],
  [['--prefill-url', 'http://a:1'], /--prefill-url needs --role proxy/],
  [['--role', 'proxy'], /at least one --decode-url/],
  [['--role', 'proxy', '--decode-url', 'a:1'], /Expected the address of a decode node/],
  [
    ['--prefill-port', '65535', '--prefill', '2'],
    /--prefill-port 65535 and the 1 behind it ends above 65535/,
  ],
  [
    ['--port', '18001', '--prefill-port', '18000', '--prefill', '2'],
    /--prefill-port 18000 and the 1 behind it clashes with --port: both take 18001/,
  ],
  [['--prefill-port', '8000'], /--prefill-port 8000 clashes with --port: both take 8000/],
  [['--decode-port', '18000', '--prefill-port', '18000'], /--decode-port 18000 clashes with --prefill-port/],
  [['--side-channel-port', '1'], /needs --role prefill, decode or both/],
  [['--log-level', 'loud'], /--log-level=loud/],
  [['--no-such-flag'], /Nonexistent flag: --no-such-flag/],
];
test('flags that make no sense end with exit code 2 and a sentence', async () => {
  for (const [args, sentence] of refused) {
    const { exitCode, stdout, stderr } = await runCommand(['serve', ...args]);
    assert.is(exitCode, 2, `${args.join(' ')}: ${stderr}`);
    assert.match(stderr, /^Error: /);
    assert.match(stderr, sentence);
    assert.is(stdout, '');
  }
});

test.run();
