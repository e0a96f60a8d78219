#!/usr/bin/env node
// The entry of the `vllm-pd` command: hands over to oclif, which finds the class in dist/commands.
import { existsSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { execute } from '@oclif/core/execute';
import { settings } from '@oclif/core/settings';

/** The nearest folder upwards that is a package. */
function packageRoot(folder: string): string {
  if (existsSync(path.join(folder, 'package.json'))) return folder;
  const parent = path.dirname(folder);
  if (parent === folder)
    throw new Error(`There is no package.json in or above ${fileURLToPath(import.meta.url)}.`);
  return packageRoot(parent);
}

// Always the compiled commands, also under NODE_ENV=test, where oclif would look for TypeScript sources.
settings.enableAutoTranspile = false;

await execute({ dir: packageRoot(path.dirname(fileURLToPath(import.meta.url))) });
