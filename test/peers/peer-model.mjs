// One generated Llama-style decoder of 91 M parameters (embeddings not counted), as safetensors, ONNX and GGUF.
import { existsSync, mkdirSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import {
  eosTokenId,
  generationConfigJson,
  tokenizerConfigJson,
  tokenizerJson,
  vocabSize,
} from '../../dist/src/model/default-vocabulary.js';
import { exportOnnx } from '../../dist/src/model/onnx-export.js';
import { writeSafetensors } from '../../dist/src/model/safetensors-writer.js';
import { constantTensor, seededTensor } from '../../dist/src/model/seeded-weights.js';
import { quantizeQ8, widen, writeGguf } from './gguf.mjs';

const [hidden, intermediate, numLayers, numHeads, numKvHeads, headDim] = [1024, 2816, 8, 16, 4, 64];
const maxLength = 4096;
const ropeTheta = 10_000;
const rmsNormEps = 1e-5;

const config = {
  architectures: ['LlamaForCausalLM'],
  model_type: 'llama',
  vocab_size: vocabSize,
  hidden_size: hidden,
  intermediate_size: intermediate,
  num_hidden_layers: numLayers,
  num_attention_heads: numHeads,
  num_key_value_heads: numKvHeads,
  head_dim: headDim,
  hidden_act: 'silu',
  rms_norm_eps: rmsNormEps,
  attention_bias: false,
  mlp_bias: false,
  tie_word_embeddings: false,
  max_position_embeddings: maxLength,
  rope_theta: ropeTheta,
  torch_dtype: 'bfloat16',
  eos_token_id: eosTokenId,
};

/** Hugging Face name, GGUF name, shape. */
function* tensorNames() {
  yield ['model.embed_tokens.weight', 'token_embd.weight', [vocabSize, hidden]];
  for (let i = 0; i < numLayers; i++) {
    const layer = (name, gguf, shape) => [
      `model.layers.${i}.${name}.weight`,
      `blk.${i}.${gguf}.weight`,
      shape,
    ];
    yield layer('input_layernorm', 'attn_norm', [hidden]);
    yield layer('self_attn.q_proj', 'attn_q', [numHeads * headDim, hidden]);
    yield layer('self_attn.k_proj', 'attn_k', [numKvHeads * headDim, hidden]);
    yield layer('self_attn.v_proj', 'attn_v', [numKvHeads * headDim, hidden]);
    yield layer('self_attn.o_proj', 'attn_output', [hidden, numHeads * headDim]);
    yield layer('post_attention_layernorm', 'ffn_norm', [hidden]);
    yield layer('mlp.gate_proj', 'ffn_gate', [intermediate, hidden]);
    yield layer('mlp.up_proj', 'ffn_up', [intermediate, hidden]);
    yield layer('mlp.down_proj', 'ffn_down', [hidden, intermediate]);
  }
  yield ['model.norm.weight', 'output_norm.weight', [hidden]];
  yield ['lm_head.weight', 'output.weight', [vocabSize, hidden]];
}

const gainOf = (name) => (name === 'lm_head.weight' ? 4 : name === 'model.embed_tokens.weight' ? 8 : 1);

function makeTensor([name, gguf, shape]) {
  const size = shape.reduce((product, n) => product * n, 1);
  const chunks =
    shape.length === 1
      ? constantTensor(size, 1)
      : seededTensor(0, name, size, gainOf(name) / Math.sqrt(shape[1]));
  return { name, gguf, shape, dtype: 'BF16', bytes: Buffer.concat([...chunks]) };
}

/** llama.cpp rotates neighbours, Hugging Face the two halves of a head: rows of q and k change places. */
function interleaveHalves({ shape, bytes }) {
  const rowBytes = 2 * shape[1];
  const out = Buffer.alloc(bytes.length);
  for (let row = 0; row < shape[0]; row++) {
    const head = row - (row % headDim);
    const inHead = row % headDim;
    const from = head + (inHead % 2) * (headDim / 2) + Math.floor(inHead / 2);
    bytes.copy(out, row * rowBytes, from * rowBytes, (from + 1) * rowBytes);
  }
  return out;
}

function ggufTensor(tensor, matrixType) {
  const isRotated = /attn_[qk]\./.test(tensor.gguf);
  const bytes = isRotated ? interleaveHalves(tensor) : tensor.bytes;
  const floats = () => widen(bytes);
  if (tensor.shape.length === 1) {
    return { name: tensor.gguf, shape: tensor.shape, type: 'f32', data: Buffer.from(floats().buffer) };
  }
  const data = matrixType === 'q8_0' ? quantizeQ8(floats()) : bytes;
  return { name: tensor.gguf, shape: tensor.shape, type: matrixType, data };
}

const ggufMetadata = [
  ['general.architecture', 'string', 'llama'],
  ['general.name', 'string', 'vllm-pd peer model'],
  ['llama.vocab_size', 'uint32', vocabSize],
  ['llama.context_length', 'uint32', maxLength],
  ['llama.embedding_length', 'uint32', hidden],
  ['llama.block_count', 'uint32', numLayers],
  ['llama.feed_forward_length', 'uint32', intermediate],
  ['llama.attention.head_count', 'uint32', numHeads],
  ['llama.attention.head_count_kv', 'uint32', numKvHeads],
  ['llama.attention.layer_norm_rms_epsilon', 'float32', rmsNormEps],
  ['llama.rope.dimension_count', 'uint32', headDim],
  ['llama.rope.freq_base', 'float32', ropeTheta],
  // Token ids go in and come out; llama.cpp still wants a vocabulary.
  ['tokenizer.ggml.model', 'string', 'gpt2'],
  ['tokenizer.ggml.pre', 'string', 'default'],
  ['tokenizer.ggml.tokens', 'string', Array.from({ length: vocabSize }, (_, id) => `t${id}`)],
  ['tokenizer.ggml.token_type', 'int32', Array.from({ length: vocabSize }, () => 1)],
  ['tokenizer.ggml.merges', 'string', ['t 0']],
  ['tokenizer.ggml.eos_token_id', 'uint32', eosTokenId],
];

/** Writes what is not there yet; returns the paths by format. */
export async function makePeerModel(folder) {
  const paths = { folder, bf16: path.join(folder, 'bf16.gguf'), q8_0: path.join(folder, 'q8_0.gguf') };
  if (existsSync(path.join(folder, 'complete'))) return paths;
  mkdirSync(folder, { recursive: true });
  const writeJson = (name, json) => writeFileSync(path.join(folder, name), JSON.stringify(json, null, 1));
  writeJson('config.json', config);
  writeJson('generation_config.json', generationConfigJson());
  writeJson('tokenizer.json', tokenizerJson());
  writeJson('tokenizer_config.json', tokenizerConfigJson(maxLength));
  const tensors = [...tensorNames()].map(makeTensor);
  await writeSafetensors(
    path.join(folder, 'model.safetensors'),
    tensors.map((tensor) => ({ ...tensor, chunks: () => [tensor.bytes] })),
  );
  for (const type of ['bf16', 'q8_0']) {
    writeGguf(
      paths[type],
      ggufMetadata,
      tensors.map((tensor) => ggufTensor(tensor, type)),
    );
  }
  await exportOnnx(folder);
  writeFileSync(path.join(folder, 'complete'), '');
  return paths;
}
