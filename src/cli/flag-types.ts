// Types of flags, each with the sentence for what does not parse, and how defaults are shown.
import { CLIError } from '@oclif/core/errors';
import { custom, integer, string } from '@oclif/core/flags';

export const maxInt32 = 2 ** 31 - 1;

/**
 * A default that is shown and not filled in: only what was given on the command line may override a workload's own engine
 * options.
 */
export function shown(value: number | string) {
  return { defaultHelp: async () => String(value) };
}

export function count(description: string, shownDefault: number | string, min = 1, max = maxInt32) {
  return integer({ description, min, max, ...shown(shownDefault) });
}

export function text(description: string, shownDefault: string) {
  return string({ description, ...shown(shownDefault) });
}

function numberOf(input: string): number {
  return input.trim() === '' ? Number.NaN : Number(input);
}

/** Above 0, at most 1. */
export const share = custom<number>({
  parse: async (input) => {
    const value = numberOf(input);
    if (value > 0 && value <= 1) return value;
    throw new CLIError(`Expected a number above 0 and at most 1 but received: ${input}`);
  },
});

export const factor = custom<number>({
  helpValue: '0.1',
  parse: async (input) => {
    const value = numberOf(input);
    if (value > 0 && Number.isFinite(value)) return value;
    throw new CLIError(`Expected a number above 0 but received: ${input}`);
  },
});

export const seconds = custom<number>({
  parse: async (input) => {
    const value = numberOf(input);
    if (value > 0 && value <= maxInt32 / 1000) return value;
    throw new CLIError(`Expected a positive number of seconds but received: ${input}`);
  },
});

const maxSeconds = 1e6;

export const nonNegativeSeconds = custom<number>({
  parse: async (input) => {
    const value = numberOf(input);
    if (value >= 0 && value <= maxSeconds) return value;
    throw new CLIError(`Expected a number of seconds from 0 on but received: ${input}`);
  },
});

export function milliseconds(seconds: number | undefined): number | undefined {
  return seconds === undefined ? undefined : Math.round(seconds * 1000);
}

/** A number of tokens, or what was measured decides. */
export const tokensOrAuto = custom<number | 'auto'>({
  helpValue: 'N|auto',
  parse: async (input) => {
    if (input === 'auto') return input;
    const value = Number(input);
    if (/^\d+$/.test(input) && value <= maxInt32) return value;
    throw new CLIError(`Expected a whole number of tokens or auto but received: ${input}`);
  },
});

const units: Readonly<Record<string, number>> = { '': 1, k: 2 ** 10, m: 2 ** 20, g: 2 ** 30, t: 2 ** 40 };

/** In bytes. */
export const size = custom<number>({
  helpValue: 'SIZE',
  parse: async (input) => {
    const [, value, unit = ''] = /^(\d+(?:\.\d+)?)(?:([kmgt])(?:i?b)?|b)?$/i.exec(input.trim()) ?? [];
    const bytes = Math.floor(Number(value) * (units[unit.toLowerCase()] ?? Number.NaN));
    if (bytes > 0 && bytes <= Number.MAX_SAFE_INTEGER) return bytes;
    throw new CLIError(`Expected a size such as 512MiB or 10GiB but received: ${input}`);
  },
});

export const jsonObject = custom<Readonly<Record<string, unknown>>>({
  parse: async (input) => {
    try {
      const value: unknown = JSON.parse(input);
      if (typeof value === 'object' && value !== null && !Array.isArray(value)) {
        return value as Readonly<Record<string, unknown>>;
      }
    } catch {
      // The sentence below is for this as well.
    }
    throw new CLIError(`Expected a JSON object but received: ${input}`);
  },
});

/** Under one heading of --help. */
export function inHelpGroup<T extends Readonly<Record<string, { helpGroup?: string }>>>(
  helpGroup: string,
  flags: T,
): T {
  for (const flag of Object.values(flags)) flag.helpGroup = helpGroup;
  return flags;
}
