// Flags that say which figures of a run are shown: for benchmarks, and for runs kept before.
import { CLIError } from '@oclif/core/errors';
import { custom, string } from '@oclif/core/flags';
import { inHelpGroup, shown } from './flag-types.js';

const percentiles = custom<number[]>({
  helpValue: '50,95,99.9',
  parse: async (input) => {
    const values = input.split(',').map((text) => (text.trim() === '' ? Number.NaN : Number(text)));
    if (values.every((value) => value >= 0 && value <= 100)) return values;
    throw new CLIError(`Expected percentiles from 0 to 100, such as 50,95,99.9, but received: ${input}`);
  },
});

export const metricFlags = inHelpGroup('METRICS', {
  'metric-percentiles': percentiles({
    description: 'Percentiles of times to show besides.',
    ...shown('50, 90 and 99 alone'),
  }),
  goodput: string({
    description:
      'Count the turns that take no longer: ttft, tpot or e2el with milliseconds, as vLLM’s. May be repeated.',
    helpValue: 'ttft:200',
    multiple: true,
    // One value each: what follows it may be an argument.
    multipleNonGreedy: true,
  }),
});
