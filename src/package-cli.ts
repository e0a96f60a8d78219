// Last step of the build: writes oclif's manifest, marks the entry executable and links it where npx looks.
import {
  chmodSync,
  existsSync,
  lstatSync,
  mkdirSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import path from 'node:path';
import { Plugin } from '@oclif/core/config';
import { settings } from '@oclif/core/settings';
import { packageRoot as root } from './version.js';

const entry = path.join(root, 'dist/src/bin.js');

/** With the manifest, start-up loads the one command that runs instead of all of them. */
async function writeManifest(): Promise<void> {
  settings.enableAutoTranspile = false;
  const plugin = new Plugin({
    root,
    type: 'core',
    isRoot: true,
    ignoreManifest: true,
    errorOnManifestCreate: true,
    respectNoCacheDefault: true,
  });
  await plugin.load();
  replaceFile(path.join(root, 'oclif.manifest.json'), `${JSON.stringify(plugin.manifest, null, 2)}\n`);
}

/** In one step, so that a command that starts meanwhile never reads half a file. */
function replaceFile(file: string, text: string): void {
  const temporary = `${file}.${process.pid}`;
  writeFileSync(temporary, text);
  renameSync(temporary, file);
}

/** npm links the bins of dependencies only; npx would look for this package's own one on the network. */
function linkBin(): void {
  const modules = path.join(root, 'node_modules');
  if (!existsSync(modules)) return;
  const folder = path.join(modules, '.bin');
  mkdirSync(folder, { recursive: true });
  const link = path.join(folder, 'vllm-pd');
  if (lstatSync(link, { throwIfNoEntry: false })) rmSync(link);
  symlinkSync(path.relative(folder, entry), link);
}

await writeManifest();
chmodSync(entry, 0o755);
linkBin();
