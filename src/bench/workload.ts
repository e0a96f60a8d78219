// Reads what a benchmark plays: this project's workload files, vLLM's two own formats and public datasets as they are.
import { createHash } from 'node:crypto';
import { closeSync, openSync, readFileSync, readSync, statSync } from 'node:fs';
import path from 'node:path';
import { z } from 'zod';
import { dtypeChoices } from '../config.js';
import { messageOf, VllmPdError } from '../errors.js';
import { packageRoot } from '../version.js';
import { type Arrival, arrivalSchema } from './arrivals.js';
import { type Filetype, filetypes } from './datasets/dataset.js';
import { detectFiletype } from './datasets/filetypes.js';
import { type DatasetSelection, type DatasetSource, datasetSchema } from './datasets/selection.js';
import { type Distribution, distributionSchema } from './distribution.js';

const positiveInteger = z.number().int().positive();

/** vLLM's synthetic conversations (`generate_conversations`); lengths in tokens. */
const generateConversationsSchema = z.strictObject({
  filetype: z.literal('generate_conversations').default('generate_conversations'),
  num_conversations: positiveInteger,
  /** Where words are taken from, relative to the workload file; none = made-up words. */
  text_files: z.array(z.string().min(1)).default([]),
  print_stats: z.boolean().optional(),
  prompt_input: z.strictObject({
    /** Messages of a conversation, both roles. */
    num_turns: distributionSchema,
    /** Tokens that all conversations begin with. */
    common_prefix_num_tokens: distributionSchema.optional(),
    /** Tokens before the first user message that no other conversation has. */
    prefix_num_tokens: distributionSchema,
    /** Tokens of every user message. */
    num_tokens: distributionSchema,
  }),
  prompt_output: z.strictObject({ num_tokens: distributionSchema }),
});

export type GenerateConversations = z.infer<typeof generateConversationsSchema>;

const messageSchema = z.strictObject({ role: z.enum(['user', 'assistant']), content: z.string().min(1) });

/** vLLM's conversation file: user first, then in turns; an answer only says how long the real one is to be. */
const conversationListSchema = z
  .array(
    z.strictObject({
      id: z.union([z.string().min(1), z.number().transform(String)]),
      messages: z
        .array(messageSchema)
        .min(1)
        .refine(
          (messages) => messages.every(({ role }, i) => role === (i % 2 === 0 ? 'user' : 'assistant')),
          'expected messages to begin with role user and to alternate between user and assistant',
        ),
    }),
  )
  .min(1)
  .refine(
    (list) => new Set(list.map(({ id }) => id)).size === list.length,
    'expected every conversation to have an id of its own',
  );

export type ListedConversation = z.infer<typeof conversationListSchema>[number];

const samplingSchema = z.strictObject({
  /** 0 = greedy. */
  temperature: z.number().min(0).default(0),
  top_p: z.number().gt(0).max(1).optional(),
  top_k: z.number().int().min(0).optional(),
  seed: z.number().int().optional(),
  /** Length of an answer that the dataset does not give, in tokens. */
  max_tokens: positiveInteger.default(128),
});

const poolSchema = z.strictObject({ num_blocks: z.number().int().min(2).optional() });

const engineSchema = z.strictObject({
  prefill: poolSchema.default({}),
  decode: poolSchema.default({}),
  block_size: positiveInteger.optional(),
  max_model_len: positiveInteger.optional(),
  max_num_batched_tokens: positiveInteger.optional(),
  kv_recompute_threshold: z.union([z.number().int().min(0), z.literal('auto')]).optional(),
  /** Bytes of host memory of each node, beyond its pool. */
  kv_store_memory: positiveInteger.optional(),
  /** A directory, a redis:// address, or `temporary`: a directory that is made for the run. */
  kv_shared_store: z.string().min(1).optional(),
  dtype: z.enum(dtypeChoices).optional(),
  quantization: z.enum(['none', 'int8']).optional(),
});

const workloadSchema = z.strictObject({
  name: z.string().min(1),
  description: z.string().default(''),
  seed: z.number().int().default(0),
  /** Conversations whose turns are under way at the same time. */
  num_clients: positiveInteger.default(1),
  /** Open loop: turns are sent when they are due. Absent = closed loop. */
  arrival: arrivalSchema.optional(),
  /** Time between an answer and the next turn of its conversation, unless a dataset gives it. */
  delay_ms: distributionSchema.optional(),
  /** One of vLLM's two shapes, or the path of a file with one or of a dataset; checked apart, by shape. */
  conversations: z.unknown(),
  /** What to take of a dataset. */
  dataset: datasetSchema.prefault({}),
  sampling: samplingSchema.prefault({}),
  /** Settings of the nodes that the benchmark starts; flags override them. */
  engine: engineSchema.prefault({}),
  /** Empty the prefill node's prefix cache between turns. */
  evict_prefill_between_turns: z.boolean().default(false),
});

export type WorkloadSampling = z.infer<typeof samplingSchema>;
export type WorkloadEngine = z.infer<typeof engineSchema>;

export type ConversationSource =
  | { readonly kind: 'generated'; readonly config: GenerateConversations }
  | { readonly kind: 'listed'; readonly conversations: readonly ListedConversation[] }
  | DatasetSource;

export interface Workload {
  readonly name: string;
  readonly description: string;
  readonly seed: number;
  readonly numClients: number;
  /** Null = closed loop. */
  readonly arrival: Arrival | null;
  /** Null = none. */
  readonly delayMs: Distribution | null;
  readonly source: ConversationSource;
  readonly sampling: WorkloadSampling;
  readonly engine: WorkloadEngine;
  readonly evictPrefillBetweenTurns: boolean;
  /** Absolute path; `text_files` are looked for beside it. */
  readonly file: string;
  /** Of the file's bytes. */
  readonly sha256: string;
}

/** workloads/ of the package: dist/src/bench/ lies three levels below its root. */
const packageWorkloads = path.join(packageRoot, 'workloads');

/** The file of a workload given by path or by its name in this package. NOT_FOUND when it is neither. */
function findWorkload(nameOrFile: string): string {
  const candidates = [nameOrFile, path.join(packageWorkloads, `${nameOrFile}.json`)];
  const found = candidates.find((file) => statSync(file, { throwIfNoEntry: false })?.isFile());
  if (found) return path.resolve(found);
  throw new VllmPdError('NOT_FOUND', `There is no workload '${nameOrFile}', neither as a file nor by name.`, {
    param: 'workload',
    suggestions: [`The workloads of this package are in ${packageWorkloads}.`],
  });
}

/**
 * Reads a workload by path or name; a dataset is a workload by itself. `filetype`: what a dataset is taken for. BAD_FILE,
 * with the field's path, when it is not what it should be.
 */
export function readWorkload(nameOrFile: string, filetype?: Filetype): Workload {
  const file = findWorkload(nameOrFile);
  const name = path.basename(file).replace(/\.(json|jsonl|csv)$/, '');
  const isDataset = (filetype ?? detectFiletype(file)) !== null;
  const { json, sha256 } = isDataset ? { json: file, sha256: sha256Of(file) } : readJson(file);
  const isOwn = isObject(json) && 'conversations' in json;
  const fields = check(workloadSchema, isOwn ? json : { name, conversations: json }, file, []);
  const at = isOwn || isDataset ? ['conversations'] : [];
  const dataset = { ...fields.dataset, filetype: filetype ?? fields.dataset.filetype };
  return {
    name: fields.name,
    description: fields.description,
    seed: fields.seed,
    numClients: fields.num_clients,
    arrival: fields.arrival ?? null,
    delayMs: fields.delay_ms ?? null,
    source: readSource(fields.conversations, { file, at, dataset }),
    sampling: fields.sampling,
    engine: fields.engine,
    evictPrefillBetweenTurns: fields.evict_prefill_between_turns,
    file,
    sha256,
  };
}

type FieldPath = readonly PropertyKey[];

interface SourceContext {
  readonly file: string;
  /** Where in the file; empty = it is the whole file. */
  readonly at: FieldPath;
  readonly dataset: DatasetSelection;
}

function readSource(value: unknown, context: SourceContext): ConversationSource {
  const { file, at, dataset } = context;
  if (Array.isArray(value)) {
    return { kind: 'listed', conversations: check(conversationListSchema, value, file, at) };
  }
  if (isObject(value) && ('filetype' in value || at.length > 0)) {
    return { kind: 'generated', config: check(generateConversationsSchema, value, file, at) };
  }
  // A file named in a workload; it may not name a third one.
  if (typeof value === 'string' && at.length > 0) {
    const named = path.resolve(path.dirname(file), value);
    const filetype = dataset.filetype ?? detectFiletype(named);
    if (filetype) return { kind: 'dataset', file: named, filetype, selection: dataset };
    return readSource(readJson(named).json, { file: named, at: [], dataset });
  }
  throw new VllmPdError(
    'BAD_FILE',
    `Expected ${file} to be a workload (an object with 'conversations'), an object with ` +
      `'filetype': 'generate_conversations', a list of conversations, or a dataset (${filetypes.join(', ')}), but received ${describe(value)}.`,
  );
}

const hashedBytes = 4 * 1024 ** 2;

/** Of a file that may be larger than memory. */
function sha256Of(file: string): string {
  const hash = createHash('sha256');
  const descriptor = openSync(file, 'r');
  try {
    const chunk = Buffer.alloc(hashedBytes);
    for (let read = readSync(descriptor, chunk); read > 0; read = readSync(descriptor, chunk)) {
      hash.update(chunk.subarray(0, read));
    }
  } finally {
    closeSync(descriptor);
  }
  return hash.digest('hex');
}

function readJson(file: string): { json: unknown; sha256: string } {
  try {
    const bytes = readFileSync(file);
    return {
      json: JSON.parse(bytes.toString('utf8')),
      sha256: createHash('sha256').update(bytes).digest('hex'),
    };
  } catch (cause) {
    throw new VllmPdError(
      'BAD_FILE',
      `Expected ${file} to be a JSON file, or a dataset (${filetypes.join(', ')}): ${messageOf(cause)}.`,
      { cause },
    );
  }
}

function check<T extends z.ZodType>(schema: T, value: unknown, file: string, at: FieldPath): z.infer<T> {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  const issue = result.error.issues[0]!;
  const field = [...at, ...issue.path].join('.') || 'the whole file';
  throw new VllmPdError('BAD_FILE', `${file}, ${field}: ${issue.message}.`, {
    param: field,
    cause: result.error,
  });
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function describe(value: unknown): string {
  if (value === null) return 'null';
  if (isObject(value)) return `an object with the keys ${Object.keys(value).join(', ') || '(none)'}`;
  return Array.isArray(value) ? 'a list' : `a ${typeof value}`;
}
