#!/usr/bin/env node
// The entry of the `vllm-pd` command: hands over to oclif, which finds the class in dist/commands.
import { execute } from '@oclif/core/execute';
import { settings } from '@oclif/core/settings';
import { packageRoot } from './version.js';

// Always the compiled commands, also under NODE_ENV=test, where oclif would look for TypeScript sources.
settings.enableAutoTranspile = false;

await execute({ dir: packageRoot });
