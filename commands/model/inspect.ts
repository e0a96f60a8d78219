// vllm-pd model inspect: what a model folder holds and what serving it costs per token.
import { string } from '@oclif/core/args';
import { integer } from '@oclif/core/flags';
import { BaseCommand } from '../../src/cli/base-command.js';
import { defaults } from '../../src/engine-options.js';
import type { DecoderReport, ModelReport } from '../../src/model/inspect-model.js';

const roundTrips: Readonly<Record<ModelReport['history_round_trip'], string>> = {
  any_answer: 'any answer comes back as the same tokens',
  canonical_text: 'answers come back unless sampled token by token from an unusual split of their text',
  broken: 'the chat template changes answers: generated KV cannot be reused',
  no_chat_template: 'no chat template',
};

export default class ModelInspect extends BaseCommand {
  static override readonly summary =
    'Show a model: architecture, sizes, KV bytes, tokenizer, chat round trip.';

  static override readonly description =
    'Reads headers only, no weights. Says which backends can run the folder, or names the field that is not supported, ' +
    'which file the chat template is in, and from which token on an answer that comes back as history is another one.';

  static override readonly examples = [
    '<%= config.bin %> <%= command.id %>',
    '<%= config.bin %> <%= command.id %> ./Qwen3-0.6B --block-size 32',
    '<%= config.bin %> <%= command.id %> tiny --json',
  ];

  static override readonly args = {
    model: string({ default: 'default', description: 'default, tiny or the path of a model folder.' }),
  };

  static override readonly flags = {
    'block-size': integer({ min: 1, default: defaults.blockSize, description: 'Tokens per KV block.' }),
  };

  async run(): Promise<ModelReport> {
    const { args, flags } = await this.parse(ModelInspect);
    const { resolveModel } = await import('../../src/model/resolve-model.js');
    const { inspectModel } = await import('../../src/model/inspect-model.js');
    const report = await inspectModel(await resolveModel(args.model), flags['block-size']);
    if (!this.jsonEnabled()) this.log(await table(report));
    return report;
  }
}

type Row = [string, string];

const count = (value: number) => value.toLocaleString('en');

function windowOf({ sliding_window: window, num_hidden_layers: numLayers }: DecoderReport): string {
  if (!window) return 'none';
  return `${count(window.size)} tokens in ${window.num_layers} of ${numLayers} layers`;
}

function isDecoder(report: Partial<DecoderReport>): report is DecoderReport {
  return report.num_hidden_layers !== undefined;
}

function decoderRows(report: DecoderReport): Row[] {
  const { type, ...ropeNumbers } = report.rope;
  const rope = Object.entries(ropeNumbers)
    .filter(([, value]) => !Array.isArray(value))
    .map(([name, value]) => `${name} ${typeof value === 'number' ? count(value) : value}`);
  return [
    ['parameters', count(report.num_parameters)],
    ['layers', count(report.num_hidden_layers)],
    ['hidden / MLP size', `${count(report.hidden_size)} / ${count(report.intermediate_size)}`],
    [
      'heads',
      `${report.num_attention_heads} query, ${report.num_key_value_heads} KV, head_dim ${report.head_dim}`,
    ],
    ['rope', [type, ...rope].join(', ')],
    ['sliding window', windowOf(report)],
    [
      'KV per token',
      `${count(report.kv_bytes_per_token)} bytes as float32, ${count(report.kv_bytes_per_token_bfloat16)} as bfloat16`,
    ],
    [`KV per block of ${report.block_size}`, `${count(report.kv_bytes_per_block)} bytes as float32`],
  ];
}

function architectureOf(report: ModelReport): string {
  if (!isDecoder(report)) return report.model_type;
  const traits = [
    report.qk_norm && 'q/k norm',
    report.attention_bias && 'q/k/v bias',
    report.tie_word_embeddings ? 'tied embeddings' : 'untied embeddings',
  ].filter(Boolean);
  return `${report.model_type} (${traits.join(', ')})`;
}

async function table(report: ModelReport): Promise<string> {
  const { default: Table } = await import('cli-table3');
  const out = new Table({ style: { head: [], border: [] } });
  const rows: Row[] = [
    ['path', report.path],
    ['architecture', architectureOf(report)],
    ['weights', `${report.dtypes.join(', ') || 'ONNX'}, ${count(report.weights_bytes)} bytes`],
    ...(report.onnx_files.length > 0 ? [['ONNX graphs', report.onnx_files.join(', ')] satisfies Row] : []),
    ['backends', report.backends.join(', ')],
    ...(report.unsupported === null ? [] : [['not on cpu', report.unsupported] satisfies Row]),
    ...(isDecoder(report) ? decoderRows(report) : []),
    ['context', `${count(report.max_position_embeddings)} tokens`],
    ['vocabulary', count(report.vocab_size)],
    ['tokenizer', `${report.tokenizer}, ${count(report.tokenizer_size)} tokens`],
    ['chat template', report.chat_template ?? 'none'],
    ['end tokens', report.eos_token_ids.join(', ') || 'none'],
    ['suppressed tokens', count(report.num_suppressed_tokens)],
    ['answer as history', roundTrips[report.history_round_trip]],
    ...report.history_changes.map(
      (change): Row => [
        `  ${change.answer.replace('_', ' ')}`,
        `this template changes it: generated KV cannot be reused past token ${change.num_reusable_tokens} of ` +
          `${change.num_tokens} (${JSON.stringify(change.generated)} → ${JSON.stringify(change.rendered)})`,
      ],
    ),
  ];
  out.push(...rows);
  return out.toString();
}
