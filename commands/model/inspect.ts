// vllm-pd model inspect: what a model folder holds and what serving it costs per token.
import { string } from '@oclif/core/args';
import { integer } from '@oclif/core/flags';
import { BaseCommand } from '../../src/cli/base-command.js';
import { defaults } from '../../src/engine-options.js';
import type { ModelReport } from '../../src/model/inspect-model.js';

const roundTrips: Readonly<Record<ModelReport['history_round_trip'], string>> = {
  any_answer: 'any answer comes back as the same tokens',
  canonical_text: 'answers come back unless sampled token by token from an unusual split of their text',
  broken: 'the chat template changes answers: generated KV cannot be reused',
  no_chat_template: 'no chat template',
};

export default class ModelInspect extends BaseCommand {
  static override readonly summary =
    'Show a model: architecture, sizes, KV bytes, tokenizer, chat round trip.';

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

function windowOf({ sliding_window: window, num_hidden_layers: numLayers }: ModelReport): string {
  if (!window) return 'none';
  return `${window.size.toLocaleString('en')} tokens in ${window.num_layers} of ${numLayers} layers`;
}

async function table(report: ModelReport): Promise<string> {
  const { default: Table } = await import('cli-table3');
  const count = (value: number) => value.toLocaleString('en');
  const { type, ...ropeNumbers } = report.rope;
  const rope = Object.entries(ropeNumbers)
    .filter(([, value]) => !Array.isArray(value))
    .map(([name, value]) => `${name} ${typeof value === 'number' ? count(value) : value}`);
  const traits = [
    report.qk_norm && 'q/k norm',
    report.attention_bias && 'q/k/v bias',
    report.tie_word_embeddings ? 'tied embeddings' : 'untied embeddings',
  ].filter(Boolean);
  const out = new Table({ style: { head: [], border: [] } });
  out.push(
    ['path', report.path],
    ['architecture', `${report.model_type} (${traits.join(', ')})`],
    ['parameters', count(report.num_parameters)],
    ['weights', `${report.dtypes.join(', ') || 'ONNX'}, ${count(report.weights_bytes)} bytes`],
    ['backends', report.backends.join(', ')],
    ['layers', count(report.num_hidden_layers)],
    ['hidden / MLP size', `${count(report.hidden_size)} / ${count(report.intermediate_size)}`],
    [
      'heads',
      `${report.num_attention_heads} query, ${report.num_key_value_heads} KV, head_dim ${report.head_dim}`,
    ],
    ['rope', [type, ...rope].join(', ')],
    ['context', `${count(report.max_position_embeddings)} tokens`],
    ['sliding window', windowOf(report)],
    ['KV per token', `${count(report.kv_bytes_per_token)} bytes`],
    [`KV per block of ${report.block_size}`, `${count(report.kv_bytes_per_block)} bytes`],
    ['vocabulary', `${count(report.vocab_size)} (tokenizer: ${count(report.tokenizer_size)})`],
    ['end tokens', report.eos_token_ids.join(', ') || 'none'],
    ['suppressed tokens', count(report.num_suppressed_tokens)],
    ['answer as history', roundTrips[report.history_round_trip]],
    ...report.history_changes.map((change): [string, string] => [
      `  ${change.answer.replace('_', ' ')}`,
      `this template changes it: generated KV cannot be reused past token ${change.num_reusable_tokens} of ` +
        `${change.num_tokens} (${JSON.stringify(change.generated)} → ${JSON.stringify(change.rendered)})`,
    ]),
  );
  return out.toString();
}
