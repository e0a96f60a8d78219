// Who can reach a KV pool: processes of the same user, as long as its owner lives, and nobody else.
import { spawnSync } from 'node:child_process';
import { readdirSync, readFileSync, statSync } from 'node:fs';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { loadNative } from '../../src/native.js';
import { ownerLayout } from './peer-pool-layout.js';

const native = loadNative();
const nobody = '65534';

/** Opens the file as this user, or as another one; what came of it. */
function openAs(path: string, uid: string | null) {
  const open = ['head', '-c', '1', path];
  const asOther = ['setpriv', `--reuid=${uid}`, `--regid=${uid}`, '--clear-groups', ...open];
  const [command, ...args] = uid === null ? open : asOther;
  return spawnSync(command!, args, { encoding: 'utf8' });
}

/** Distinct pools that a process has mapped. */
function mappedPools(pid: number | 'self'): Set<string> {
  const lines = readFileSync(`/proc/${pid}/maps`, 'utf8').split('\n');
  // address perms offset device inode path
  return new Set(
    lines.filter((line) => line.includes('memfd:vllm-pd-kv')).map((line) => line.split(/\s+/)[4]!),
  );
}

// Fails without fchmod in kv_cache.cc: memfds are made readable, writable and executable by all.
test('a pool belongs to its user, who alone may read and write it', () => {
  const pool = native.createPool(ownerLayout);
  try {
    const { mode, uid } = statSync(`/proc/self/fd/${pool.fd}`);
    assert.is((mode & 0o777).toString(8), '600');
    assert.is(uid, process.getuid?.());
  } finally {
    pool.close();
  }
});

test('another user cannot open a pool through /proc', () => {
  if (process.getuid?.() !== 0 || spawnSync('setpriv', ['--version']).status !== 0) {
    console.log('skipped: becoming another user needs root and setpriv');
    return;
  }
  const pool = native.createPool(ownerLayout);
  try {
    const path = `/proc/${process.pid}/fd/${pool.fd}`;
    assert.is(openAs(path, null).status, 0, 'the same user can');
    const refused = openAs(path, nobody);
    assert.is.not(refused.status, 0);
    assert.match(refused.stderr, /[Pp]ermission denied/);
    assert.match(openAs(`/proc/${process.pid}/maps`, nobody).stderr, /[Pp]ermission denied/);
    // Even with the descriptor's directory open to all, the pool itself is not.
    const inherited = spawnSync(
      'setpriv',
      [`--reuid=${nobody}`, `--regid=${nobody}`, '--clear-groups', 'head', '-c', '1', '/proc/self/fd/3'],
      { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe', pool.fd] },
    );
    assert.is.not(inherited.status, 0, 'not opened anew either');
  } finally {
    pool.close();
  }
});

test('a pool has no name in /dev/shm, and nothing of it stays when it is closed', () => {
  const before = readdirSync('/dev/shm');
  const mappedBefore = mappedPools('self').size;
  const pool = native.createPool(ownerLayout);
  assert.is(mappedPools('self').size, mappedBefore + 1);
  assert.equal(
    readdirSync('/dev/shm').filter((name) => !before.includes(name) && name.includes('vllm')),
    [],
  );
  pool.close();
  assert.is(mappedPools('self').size, mappedBefore);
});

test.run();
