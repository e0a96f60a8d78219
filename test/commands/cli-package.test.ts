// The packaging step of the build, in a small package of its own.
import { execFileSync } from 'node:child_process';
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  realpathSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { test } from 'uvu';
import * as assert from 'uvu/assert';

const compiled = fileURLToPath(new URL('../../src/', import.meta.url));
const oclif = fileURLToPath(new URL('../../../node_modules/@oclif', import.meta.url));

const hello = `
import { Command } from '@oclif/core/command';
export default class Hello extends Command {
  static summary = 'Says hello.';
  async run() { await this.parse(Hello); this.log('hello'); }
}`;

/** A package with one command below a folder that holds oclif; removed afterwards. */
function withPackage(work: (root: string) => void): void {
  const folder = mkdtempSync(path.join(tmpdir(), 'package-cli-'));
  const root = path.join(folder, 'package');
  try {
    for (const part of ['dist/src', 'dist/commands']) mkdirSync(path.join(root, part), { recursive: true });
    mkdirSync(path.join(folder, 'node_modules'));
    symlinkSync(realpathSync(oclif), path.join(folder, 'node_modules/@oclif'));
    const manifest = {
      name: 'small',
      version: '1.2.3',
      type: 'module',
      oclif: { bin: 'small', commands: './dist/commands' },
    };
    writeFileSync(path.join(root, 'package.json'), JSON.stringify(manifest));
    writeFileSync(path.join(root, 'dist/commands/hello.js'), hello);
    for (const file of ['bin.js', 'package-cli.js', 'version.js']) {
      copyFileSync(path.join(compiled, file), path.join(root, 'dist/src', file));
    }
    work(root);
  } finally {
    rmSync(folder, { recursive: true });
  }
}

function build(root: string): void {
  execFileSync(process.execPath, [path.join(root, 'dist/src/package-cli.js')], { stdio: 'pipe' });
}

test('it writes the manifest and an entry that runs from where npx looks, as often as it is called', () => {
  withPackage((root) => {
    mkdirSync(path.join(root, 'node_modules'));
    for (let i = 0; i < 2; i++) {
      build(root);
      const manifest = JSON.parse(readFileSync(path.join(root, 'oclif.manifest.json'), 'utf8')) as {
        commands: object;
        version: string;
      };
      assert.equal(Object.keys(manifest.commands), ['hello']);
      assert.is(manifest.version, '1.2.3');
      const entry = path.join(root, 'dist/src/bin.js');
      assert.is(statSync(entry).mode & 0o111, 0o111);
      const link = path.join(root, 'node_modules/.bin/vllm-pd');
      assert.is(realpathSync(link), realpathSync(entry));
      assert.is(execFileSync(link, ['hello'], { encoding: 'utf8', cwd: '/' }), 'hello\n');
    }
  });
});

test('without node_modules there is nothing to link, and that is fine', () => {
  withPackage((root) => {
    build(root);
    assert.ok(existsSync(path.join(root, 'oclif.manifest.json')));
    assert.not(existsSync(path.join(root, 'node_modules')));
  });
});

test('a command that cannot be loaded fails the build', () => {
  withPackage((root) => {
    writeFileSync(path.join(root, 'dist/commands/broken.js'), "import './no-such-file.js';");
    assert.throws(() => build(root), /broken/);
  });
});

test.run();
