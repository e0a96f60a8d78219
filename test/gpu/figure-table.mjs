// What the figures of a run on a GPU come to: each beside its limit, which the same run measured, and what is asked of it.

/** `of` finds value, limit and unit among the run's figures; null where a step that brings one did not run. */
const asked = [
  {
    figure: 'block copy, 16-token blocks, fragmented ids',
    limit_is: 'a large device-to-device copy',
    asked: 0.9,
    of: ({ kernel }) => rateOf(kernel('block copy, fragmented ids')),
  },
  {
    figure: 'attention decode, batch 32 × 8k context',
    limit_is: 'memory bandwidth',
    asked: 0.85,
    of: ({ kernel }) => rateOf(kernel('attention decode, batch 32 x 8k')),
  },
  {
    figure: 'attention prefill, 8k causal, head_dim 128',
    limit_is: "PyTorch's scaled_dot_product_attention",
    asked: 0.8,
    of: ({ kernel, torch }) => against(kernel('attention prefill, 8k causal')?.rate, torch?.rate, 'FLOP/s'),
  },
  ...[1, 32].map((batch) => ({
    figure: `decode step, batch ${batch}`,
    limit_is: 'memory bandwidth (bytes of weights and KV)',
    asked: 0.75,
    of: ({ step, bandwidth }) =>
      against(step(`decode step, batch ${batch}`)?.bytesPerSecond, bandwidth, 'B/s'),
  })),
  {
    figure: 'prefill of 8k tokens',
    limit_is: 'the fastest bf16 product',
    asked: 0.6,
    of: ({ step, productRate }) => against(step('prefill')?.flopsPerSecond, productRate, 'FLOP/s'),
  },
  {
    figure: 'reuse efficiency, P evicted, 8k tokens',
    limit_is: 'TTFT with a local hit',
    asked: 0.95,
    of: ({ reuse }) =>
      reuse && {
        value: reuse.uni - reuse.bi,
        limit: reuse.uni - reuse.hit,
        ratio: reuse.ratio,
        unit: 'ms saved',
      },
  },
];

function rateOf(line) {
  return line && { value: line.rate, limit: line.limit, ratio: line.ratio, unit: line.unit };
}

function against(value, limit, unit) {
  return value && limit ? { value, limit, ratio: value / limit, unit } : null;
}

/** Lines of a step's output that are JSON. */
function jsonLines(step) {
  return (step?.stdout ?? '')
    .split('\n')
    .filter((line) => line.startsWith('{"'))
    .map((line) => JSON.parse(line));
}

function reuseOf(step) {
  if (step?.state !== 'passed') return null;
  const reuse = JSON.parse(step.stdout).comparison?.reuse;
  if (!reuse) return null;
  const { ttft_uni_p50: uni, ttft_bi_p50: bi, ttft_full_hit_p50: hit, reuse_efficiency: ratio } = reuse;
  return { uni, bi, hit, ratio };
}

/** Where 8k was not asked for, the longest is shown. */
function evictionStep(steps) {
  const all = steps.filter(({ name }) => name.startsWith('cache-eviction at'));
  return all.find(({ name }) => name.includes(' 8192 ')) ?? all.at(-1);
}

/** One row a figure; `ratio` null where it was not measured. */
export function figureTable(steps) {
  const named = (name) => steps.find((step) => step.name === name);
  const kernels = jsonLines(named('kernel rates'));
  const model = jsonLines(named('steps of the model')).filter(({ batchInvariant }) => batchInvariant);
  const kernel = (figure) => kernels.find((line) => line.figure === figure);
  const found = {
    kernel,
    torch: jsonLines(named('PyTorch attention'))[0],
    step: (figure) => model.find((line) => line.figure.startsWith(figure)),
    bandwidth: kernel('block copy, fragmented ids')?.limit,
    productRate: kernel('own product, 8k rows')?.limit,
    reuse: reuseOf(evictionStep(steps)),
  };
  return asked.map(({ of, ...row }) => ({
    ...row,
    ...(of(found) ?? { value: null, limit: null, ratio: null }),
  }));
}

const shown = (value) => (typeof value === 'number' ? Number(value.toPrecision(3)) : '–');

/** The run as a page of Markdown. */
export function inWords({ command, host, config, figures, steps }) {
  const gpus = host.gpus.map(({ name, capability }) => `${name} (${capability})`).join(', ');
  const rows = figures.map(
    (row) =>
      `| ${row.figure} | ${shown(row.value)} ${row.unit ?? ''} | ${shown(row.limit)}: ${row.limit_is} | ${shown(row.ratio)} | ${row.asked} | ${verdict(row)} |`,
  );
  const notPassed = steps
    .filter(({ state }) => state !== 'passed')
    .map(({ name, state, reason }) => `- ${state}: ${name}: ${reason}`);
  return [
    `# A run on ${gpus}`,
    '',
    `\`${command}\` at commit ${host.commit ?? 'unknown'}; driver ${host.nvidia_driver ?? host.cuda_driver}, CUDA ${host.cuda_driver}, kernels by nvcc ${host.nvcc ?? 'none'}, PyTorch, its CUDA and transformers ${host.torch_cuda_transformers ?? 'absent'}, batch-invariant, ${config.model}.`,
    ...(config.small ? ['', '**Small sizes, for trying the script: these rates say nothing.**'] : []),
    '',
    '| figure (median) | measured | limit | ratio | asked | |',
    '|---|---|---|---|---|---|',
    ...rows,
    '',
    `${steps.length - notPassed.length} of ${steps.length} steps passed.`,
    ...notPassed,
    '',
  ].join('\n');
}

function verdict({ ratio, asked: least }) {
  if (ratio === null || ratio === undefined) return 'not measured';
  return ratio >= least ? 'reached' : 'missed';
}
