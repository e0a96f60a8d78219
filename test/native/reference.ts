// The decoder written as plainly as possible, in float64, without a cache: what the native forward pass is compared with.
import type { RandomModel } from './random-model.js';

type Vector = Float64Array;

/**
 * `roundKv` does to each number of K and V what the pool's dtype does, `roundQuery` to each of a query, scaled so that
 * scores are powers of two, what the instructions do that multiply it with K.
 */
export function referenceLogits(
  model: RandomModel,
  tokens: readonly number[],
  roundKv: (value: number) => number = (value) => value,
  roundQuery: (value: number) => number = (value) => value,
): Vector[] {
  const { config, weights } = model;
  const { hiddenSize, headDim, numHeads, numKvHeads, rmsNormEps } = config;

  const get = (name: string) => {
    const tensor = weights.get(name);
    if (!tensor) throw new Error(`no tensor ${name}`);
    return tensor;
  };
  const linear = (name: string, x: Vector): Vector => {
    const { shape, values } = get(`${name}.weight`);
    const bias = weights.get(`${name}.bias`)?.values;
    return Float64Array.from({ length: shape[0]! }, (_, row) => {
      let sum = bias?.[row] ?? 0;
      for (let i = 0; i < x.length; i++) sum += x[i]! * values[row * x.length + i]!;
      return sum;
    });
  };
  const rmsNorm = (name: string, x: Vector): Vector => {
    const { values } = get(`${name}.weight`);
    const mean = x.reduce((sum, value) => sum + value * value, 0) / x.length;
    return x.map((value, i) => (value / Math.sqrt(mean + rmsNormEps)) * values[i]!);
  };
  const half = config.invFreq.length;
  const rotate = (x: Vector, position: number, layer: number): Vector => {
    if (config.noRopeLayers?.includes(layer)) return x;
    return x.map((value, i) => {
      if (i >= 2 * half) return value;
      const angle = position * config.invFreq[i % half]!;
      const other = i < half ? -x[i + half]! : x[i - half]!;
      return (value * Math.cos(angle) + other * Math.sin(angle)) * config.ropeAttentionScaling;
    });
  };
  const heads = (x: Vector, count: number): Vector[] =>
    Array.from({ length: count }, (_, head) => x.slice(head * headDim, (head + 1) * headDim));
  const dot = (a: Vector, b: Vector) => a.reduce((sum, value, i) => sum + value * b[i]!, 0);

  let residual = tokens.map((token) =>
    Float64Array.from(
      get('model.embed_tokens.weight').values.subarray(token * hiddenSize, (token + 1) * hiddenSize),
    ),
  );
  for (let layer = 0; layer < config.numLayers; layer++) {
    const prefix = `model.layers.${layer}`;
    const project = (x: Vector, name: 'q' | 'k', count: number, position: number) =>
      heads(linear(`${prefix}.self_attn.${name}_proj`, x), count).map((head) =>
        rotate(config.qkNorm ? rmsNorm(`${prefix}.self_attn.${name}_norm`, head) : head, position, layer),
      );
    const normed = residual.map((x) => rmsNorm(`${prefix}.input_layernorm`, x));
    const queryScale = Math.LOG2E / Math.sqrt(headDim);
    const q = normed.map((x, position) =>
      project(x, 'q', numHeads, position).map((head) => head.map((value) => roundQuery(value * queryScale))),
    );
    const k = normed.map((x, position) =>
      project(x, 'k', numKvHeads, position).map((head) => head.map(roundKv)),
    );
    const v = normed.map((x) => heads(linear(`${prefix}.self_attn.v_proj`, x).map(roundKv), numKvHeads));
    const window = config.slidingWindows?.[layer] || Infinity;
    residual = residual.map((x, position) => {
      const attended = q[position]!.flatMap((query, head) => {
        const kvHead = Math.floor(head / (numHeads / numKvHeads));
        const scores = k
          .slice(0, position + 1)
          .map((keys, at) => (at > position - window ? dot(query, keys[kvHead]!) : -Infinity));
        const highest = Math.max(...scores);
        const exponentials = scores.map((score) => 2 ** (score - highest));
        const total = exponentials.reduce((sum, value) => sum + value, 0);
        return Array.from({ length: headDim }, (_, d) =>
          exponentials.reduce((sum, p, j) => sum + (p / total) * v[j]![kvHead]![d]!, 0),
        );
      });
      const output = linear(`${prefix}.self_attn.o_proj`, Float64Array.from(attended));
      return x.map((value, i) => value + output[i]!);
    });
    residual = residual.map((x) => {
      const hidden = rmsNorm(`${prefix}.post_attention_layernorm`, x);
      const up = linear(`${prefix}.mlp.up_proj`, hidden);
      const gated = linear(`${prefix}.mlp.gate_proj`, hidden).map(
        (value, i) => (value / (1 + Math.exp(-value))) * up[i]!,
      );
      const output = linear(`${prefix}.mlp.down_proj`, gated);
      return x.map((value, i) => value + output[i]!);
    });
  }
  const head = config.tieWordEmbeddings ? 'model.embed_tokens' : 'lm_head';
  return residual.map((x) => linear(head, rmsNorm('model.norm', x)));
}
