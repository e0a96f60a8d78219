// Plays one system in an open loop: turns are sent when they are due, not when others are done.
import { setTimeout as sleep } from 'node:timers/promises';
import type { PlannedTurn } from './arrivals.js';
import type { ChatSession } from './chat-session.js';
import type { TurnRecord } from './turn-record.js';

/**
 * A turn waits for the one before it in its conversation, and for the time to think after that; it is sent late then, and
 * its record says by how much. Resolves when all are played or the signal is aborted.
 */
export async function playOpenLoop(
  planned: readonly PlannedTurn[],
  sessions: readonly ChatSession[],
  { signal, onTurn }: { readonly signal: AbortSignal; readonly onTurn: (record: TurnRecord) => void },
): Promise<void> {
  const startedAt = performance.now();
  const byConversation = new Map<number, PlannedTurn[]>();
  for (const turn of planned) {
    const own = byConversation.get(turn.conversation);
    if (own) own.push(turn);
    else byConversation.set(turn.conversation, [turn]);
  }
  await Promise.all(
    Array.from(byConversation, async ([conversation, turns]) => {
      const session = sessions[conversation]!;
      for (const { turn, plannedMs } of turns) {
        if (!session.canPlay(turn)) return;
        // Time to think is part of the plan, a slow answer is not.
        const dueAt = Math.max(startedAt + plannedMs, session.thinksUntil(turn));
        await until(dueAt, signal);
        if (signal.aborted) return;
        const record = await session.play(turn, dueAt);
        // What an interrupt cut off says nothing about the turn.
        if (signal.aborted) return;
        onTurn(record);
      }
    }),
  );
}

/** Longer timers fire at once. */
const maxTimerMs = 2 ** 31 - 1;

/** Until `performance.now()` is `time`, or the signal is aborted. */
export async function until(time: number, signal: AbortSignal): Promise<void> {
  for (let left = time - performance.now(); left > 0 && !signal.aborted; left = time - performance.now()) {
    await sleep(Math.min(left, maxTimerMs), undefined, { signal }).catch(() => undefined);
  }
}
