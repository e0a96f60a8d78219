// All rows, in the order of the report.
import { availableParallelism } from 'node:os';
import { readModelConfig } from '../model/model-config.js';
import { loadNative } from '../native.js';
import { attentionGroups } from './attention-rows.js';
import { cliGroups } from './cli-rows.js';
import { coreGroups } from './core-rows.js';
import { forwardGroups } from './forward-rows.js';
import { httpGroups } from './http-rows.js';
import { matmulGroups } from './matmul-rows.js';
import { proxyGroups } from './proxy-rows.js';
import { type RowGroup, threadCounts } from './row-plan.js';
import { shmGroups } from './shm-rows.js';
import { tcpGroups } from './tcp-rows.js';

/** `modelPath`: an absolute folder, whose shapes and forward pass are measured. */
export async function createRowGroups(modelPath: string): Promise<readonly RowGroup[]> {
  const model = await readModelConfig(modelPath);
  const threads = threadCounts(availableParallelism());
  return [
    ...matmulGroups(model, threads),
    ...attentionGroups(model, threads),
    ...forwardGroups(model, modelPath, threads),
    ...shmGroups(model, loadNative().numTransferThreads),
    ...tcpGroups(model),
    ...coreGroups(),
    ...httpGroups(),
    ...proxyGroups(modelPath),
    ...cliGroups(),
  ];
}
