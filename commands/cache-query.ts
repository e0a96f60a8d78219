// vllm-pd cache-query: which blocks of a prompt does each node hold.
import { readFile } from 'node:fs/promises';
import { string as stringArg } from '@oclif/core/args';
import { boolean, string } from '@oclif/core/flags';
import { apiKeysOf } from '../src/cli/api-keys.js';
import { BaseCommand } from '../src/cli/base-command.js';
import { hasCode, messageOf, VllmPdError } from '../src/errors.js';
import type { NodeRow } from '../src/server/cache-query-client.js';
import type { CacheQueryAnswer } from '../src/wire.js';

export default class CacheQuery extends BaseCommand {
  static override readonly summary = 'Ask which blocks of a prompt each node holds.';

  static override readonly description =
    'Asks a proxy (one row for each of its nodes) or a single node. Nothing is computed, and without --lease nothing ' +
    'changes on the nodes: neither the order of eviction nor the statistics.';

  static override readonly examples = [
    '<%= config.bin %> <%= command.id %> "once upon a time"',
    '<%= config.bin %> <%= command.id %> --messages conversation.json --json',
    '<%= config.bin %> <%= command.id %> --token-ids 1,2,3 --url http://127.0.0.1:8200 --lease',
  ];

  static override readonly args = {
    text: stringArg({ description: 'The prompt as text.' }),
  };

  static override readonly flags = {
    file: string({ description: 'A file with the prompt as text.', exclusive: ['messages', 'token-ids'] }),
    messages: string({
      description: 'A JSON file with chat messages: a list, or an object with `messages`.',
      exclusive: ['file', 'token-ids'],
    }),
    'token-ids': string({ description: 'Token ids, separated by commas.', exclusive: ['file', 'messages'] }),
    url: string({ description: 'A proxy or a node.', default: 'http://127.0.0.1:8000' }),
    lease: boolean({
      description: 'Hold the blocks found until they are read or the lease runs out.',
      default: false,
    }),
    'cache-salt': string({ description: 'Salt of the prompt, if it was sent with one.' }),
  };

  async run(): Promise<{ readonly nodes: readonly NodeRow[] }> {
    const { args, flags } = await this.parse(CacheQuery);
    const prompt = await promptOf(args.text, flags);
    const salt = flags['cache-salt'] === undefined ? {} : { cache_salt: flags['cache-salt'] };
    const { queryCaches } = await import('../src/server/cache-query-client.js');
    const nodes = await queryCaches(
      flags.url,
      { ...prompt, ...salt, lease: flags.lease },
      apiKeysOf(undefined)[0] ?? null,
    );
    await this.#print(nodes);
    return { nodes };
  }

  async #print(nodes: readonly NodeRow[]): Promise<void> {
    const { default: Table } = await import('cli-table3');
    const table = new Table({
      head: ['node', 'role', 'tokens held', 'blocks', 'tier', 'lease'],
      style: { head: [], border: [], compact: true },
    });
    for (const { url, role, answer, error } of nodes) {
      if (answer) table.push([url, role ?? '', ...cellsOf(answer)]);
      else table.push([url, role ?? '', { colSpan: 4, content: error ?? 'no answer' }]);
    }
    this.log(table.toString());
  }
}

function cellsOf(answer: CacheQueryAnswer): string[] {
  const { lease } = answer;
  return [
    `${answer.num_tokens} of ${answer.num_prompt_tokens}`,
    String(answer.num_blocks),
    tiersCell(answer),
    lease ? `${lease.id}, ${lease.expires_in_ms / 1000} s` : '',
  ];
}

/** Blocks by where they lie: `local 12, shared 31`; one block may lie in several places. */
function tiersCell({ block_tiers: tiers, num_blocks, tier }: CacheQueryAnswer): string {
  if (!tiers) return num_blocks > 0 ? tier : '';
  return (['local', 'dedicated', 'shared'] as const)
    .map((name) => [name, tiers.filter((media) => media.includes(name)).length] as const)
    .filter(([, numBlocks]) => numBlocks > 0)
    .map(([name, numBlocks]) => `${name} ${numBlocks}`)
    .join(', ');
}

interface PromptFlags {
  readonly file?: string | undefined;
  readonly messages?: string | undefined;
  readonly 'token-ids'?: string | undefined;
}

async function promptOf(text: string | undefined, flags: PromptFlags): Promise<object> {
  const given = [text, flags.file, flags.messages, flags['token-ids']].filter((value) => value !== undefined);
  if (given.length !== 1) {
    const message = `Expected one prompt, as TEXT, --file, --messages or --token-ids, but received ${given.length}.`;
    throw new VllmPdError('INVALID_ARGUMENT', message, { param: 'text' });
  }
  if (flags.file !== undefined) return { prompt: await readText(flags.file) };
  if (flags.messages !== undefined)
    return { messages: messagesOf(flags.messages, await readText(flags.messages)) };
  if (flags['token-ids'] !== undefined) return { prompt: tokenIdsOf(flags['token-ids']) };
  return { prompt: text };
}

async function readText(file: string): Promise<string> {
  try {
    return await readFile(file, 'utf8');
  } catch (cause) {
    const message = hasCode(cause, 'ENOENT')
      ? `There is no file ${file}.`
      : `Cannot read ${file}: ${messageOf(cause)}.`;
    throw new VllmPdError('BAD_FILE', message, { cause });
  }
}

function messagesOf(file: string, text: string): unknown {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw new VllmPdError('BAD_FILE', `Expected JSON in ${file} but received: ${messageOf(cause)}.`, {
      cause,
    });
  }
  const messages =
    typeof value === 'object' && value !== null && 'messages' in value ? value.messages : value;
  if (Array.isArray(messages) && messages.length > 0) return messages;
  throw new VllmPdError(
    'BAD_FILE',
    `Expected ${file} to hold a list of messages, or an object with \`messages\`.`,
  );
}

function tokenIdsOf(list: string): number[] {
  const parts = list.split(',').map((part) => part.trim());
  const wrong = parts.find((part) => !/^\d+$/.test(part));
  if (wrong === undefined) return parts.map(Number);
  const message = `Expected --token-ids to be numbers separated by commas but received \`${wrong}\`.`;
  throw new VllmPdError('INVALID_ARGUMENT', message, { param: 'token-ids' });
}
