// Process entry: measures the rows of one group and sends each to the parent as soon as it is done.
import { messageOf } from '../errors.js';
import type { KernelRow } from './kernel-row.js';
import { measureRow } from './measure.js';
import { createRowGroups } from './row-groups.js';
import { chooseRows, type RowChoice } from './row-plan.js';

export interface TrialOptions {
  /** Absolute. */
  readonly modelPath: string;
  readonly choice: RowChoice;
  /** Of the groups that the choice leaves. */
  readonly groupIndex: number;
  /** Of each row. */
  readonly timeMs: number;
}

export type TrialMessage =
  | { readonly type: 'row'; readonly row: KernelRow }
  | { readonly type: 'failed'; readonly message: string };

async function runTrial({ modelPath, choice, groupIndex, timeMs }: TrialOptions): Promise<void> {
  const group = chooseRows(await createRowGroups(modelPath), choice)[groupIndex];
  if (!group) throw new Error(`There is no group ${groupIndex}`);
  for (const plan of group.rows) {
    send({ type: 'row', row: await measureRow(group.family, plan, { timeMs }) });
  }
}

function send(message: TrialMessage): void {
  process.send?.(message);
}

process.once('disconnect', () => process.exit(1));
try {
  await runTrial(JSON.parse(process.argv[2]!) as TrialOptions);
} catch (error) {
  send({ type: 'failed', message: messageOf(error) });
}
// Nothing is left to wait for, but the IPC channel would keep the process.
process.removeAllListeners('disconnect');
process.disconnect?.();
