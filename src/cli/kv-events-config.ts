// --kv-events-config: vLLM's KVEventsConfig as JSON, checked.
import { custom } from '@oclif/core/flags';
import type { KvEventsConfig } from '../config.js';
import { defaultKvEvents } from '../engine-options.js';
import { VllmPdError } from '../errors.js';

const maxCount = 10_000_000;

/** Null when the JSON says that there are to be no events. Throws INVALID_ARGUMENT with the field's name. */
export async function parseKvEventsConfig(text: string): Promise<KvEventsConfig | null> {
  const { z } = await import('zod');
  const count = z.int().min(1).max(maxCount);
  const endpoint = z.string().regex(/^(tcp|ipc|inproc):\/\/.+$/, 'expected tcp://…, ipc://… or inproc://…');
  const schema = z.strictObject({
    enable_kv_cache_events: z.boolean().default(false),
    publisher: z.enum(['zmq', 'null']).nullish(),
    endpoint: endpoint.default(defaultKvEvents.endpoint),
    replay_endpoint: endpoint.nullable().default(defaultKvEvents.replay_endpoint),
    buffer_steps: count.default(defaultKvEvents.buffer_steps),
    hwm: z.int().min(0).max(maxCount).default(defaultKvEvents.hwm),
    max_queue_size: count.default(defaultKvEvents.max_queue_size),
    topic: z.string().max(1024).default(defaultKvEvents.topic),
    bind: z.boolean().nullable().default(defaultKvEvents.bind),
    event_format: z.enum(['map', 'array']).default(defaultKvEvents.event_format),
    block_hashes: z.enum(['int', 'bytes']).default(blockHashesOfEnvironment()),
  });
  const parsed = schema.safeParse(parseJson(text));
  if (!parsed.success) {
    const [issue] = parsed.error.issues;
    const where = issue?.path.join('.') ?? '';
    throw refusal(`${where === '' ? '' : `${where}: `}${issue?.message ?? 'not as expected'}`);
  }
  const { enable_kv_cache_events, publisher, ...config } = parsed.data;
  return enable_kv_cache_events && publisher !== 'null' ? config : null;
}

/** vLLM's variable. */
function blockHashesOfEnvironment(): KvEventsConfig['block_hashes'] {
  return process.env.VLLM_KV_EVENTS_USE_INT_BLOCK_HASHES === '0' ? 'bytes' : defaultKvEvents.block_hashes;
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text) as unknown;
  } catch {
    throw refusal('it is no JSON');
  }
}

function refusal(why: string): VllmPdError {
  const message = `Expected vLLM's KVEventsConfig as JSON in --kv-events-config but received another: ${why}.`;
  return new VllmPdError('INVALID_ARGUMENT', message, { param: 'kv-events-config' });
}

export const kvEventsFlag = custom<KvEventsConfig | null>({
  description: "Publish blocks that are cached and evicted over ZeroMQ: vLLM's KVEventsConfig as JSON.",
  parse: async (input) => parseKvEventsConfig(input),
});
