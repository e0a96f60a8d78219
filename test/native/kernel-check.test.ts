// The kernels of every instruction set give what plain products and plain attention give; those that this machine lacks, emulated.
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import path from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { packageRoot } from '../../src/version.js';

const program = path.join(packageRoot, 'build', 'kernel_check');
/** Its code where this machine lacks the instruction set. */
const notHere = 3;

for (const isa of ['portable', 'avx2', 'avx512', 'avx512_vnni', 'avx512_bf16', 'amx']) {
  test(`${isa}: products and attention are right for every number of rows, and the same alone as among others`, () => {
    if (!existsSync(program)) return console.log('skipped: built without node native/build.mjs --checks');
    const names = [isa, `emulated_${isa}`];
    const ran = names.filter((name) => {
      const { status, stdout, stderr } = spawnSync(program, {
        env: { ...process.env, VLLM_PD_ISA: name },
        encoding: 'utf8',
        timeout: 120_000,
      });
      if (status === notHere) return false;
      assert.is(status, 0, `${name}: ${stderr}`);
      const numGated = isa === 'amx' ? 8 : 0;
      assert.is(stdout, `${name}: 150 products, ${numGated} gated, 24 times attention\n`);
      return true;
    });
    if (ran.length === 0) console.log(`skipped: this machine has no ${isa} and does not emulate it`);
  });
}

test.run();
