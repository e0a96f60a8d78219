// Flags about the model: which one, on what it runs, what its weights are kept as.
import { boolean, option, string } from '@oclif/core/flags';
import { dtypeChoices } from '../config.js';
import { defaults } from '../engine-options.js';
import { count, inHelpGroup, jsonObject, shown, text } from './flag-types.js';

export const modelFlags = inHelpGroup('MODEL', {
  model: text('A built-in model (`default`, `tiny`) or a Hugging Face folder.', defaults.model),
  'served-model-name': string({
    description: 'The name that clients ask for; the value of --model if absent.',
  }),
  'max-model-len': count('Longest prompt plus answer, in tokens.', defaults.maxModelLen),
  seed: count('Seed of sampling for requests that bring none.', defaults.seed, 0),
  backend: option({
    options: ['auto', 'cpu', 'cuda', 'onnx'] as const,
    description:
      'What runs the model: the native kernels on the CPU or on a GPU (auto: where one answers), or ONNX Runtime on an exported ' +
      'decoder (auto: where the folder holds nothing else).',
    ...shown(defaults.backend),
  })(),
  'onnx-file': string({
    description:
      'Run this exported graph with ONNX Runtime, such as model_q4.onnx or just q4; of several, the most exact one if absent.',
    helpValue: 'NAME',
  }),
  'chat-template': string({
    description: "A Jinja file, or a template itself, instead of the model's own.",
    helpValue: 'FILE',
  }),
  'generation-config': text(
    'Sampling defaults: from the model (`auto`), from a folder, or none but those of the API (`vllm`).',
    defaults.generationConfig,
  ),
  'override-generation-config': jsonObject({
    description: 'Fields of generation_config.json that hold over the file, as JSON.',
    helpValue: 'JSON',
  }),
  dtype: option({
    options: dtypeChoices,
    description:
      'What weights are kept as: bfloat16 on a GPU and where the CPU has AVX-512 or AMX (auto), or as said; float16 on a GPU only.',
    ...shown(defaults.dtype),
  })(),
  quantization: option({
    options: ['none', 'int8'] as const,
    description: 'int8: weights quantised by output channel, activations by token.',
    ...shown(defaults.quantization),
  })(),
  'batch-invariant': boolean({
    description:
      'On a GPU: products whose bits depend on no other request (on unless switched off); cuBLASLt otherwise.',
    allowNo: true,
  }),
  'num-threads': count('Compute threads of one node.', 'all cores', 1, 1024),
});
