// The made-up vocabulary of the embedded models: any sequence of its words is tokenised back into the same ids.
//
// A word is two of 64 syllables and carries its leading space, so words never merge and never split. Any other text
// falls back to bytes. Bytes and control tokens are suppressed in generation: an answer is always a sequence of words.
// The end token is suppressed too, so these models never stop by themselves; answers are as long as was asked for.
import { byteAlphabet } from './tokenizer.js';

const consonants = [...'bdfghjklmnprstvz'];
const vowels = [...'aiou'];
const syllables = consonants.flatMap((consonant) => vowels.map((vowel) => consonant + vowel));

/** Word i, without its space, is token 256 + i. */
export const words: readonly string[] = syllables.flatMap((first) =>
  syllables.map((second) => first + second),
);

const controlTokens = [
  '<|pad|>',
  '<|end|>',
  '<|system|>',
  '<|user|>',
  '<|assistant|>',
  '<|tool|>',
  '<|reserved_0|>',
  '<|reserved_1|>',
] as const;

/** Ids [256, 256 + 4096) are words; bytes lie before them, control tokens behind. */
const firstWordId = byteAlphabet.length;
const firstControlId = firstWordId + words.length;
export const vocabSize = firstControlId + controlTokens.length;

function controlId(token: (typeof controlTokens)[number]): number {
  return firstControlId + controlTokens.indexOf(token);
}

// No tag trims or adds white space around a message, so an answer comes back exactly as it was.
const chatTemplate =
  "{% for message in messages %}{% if message['role'] not in ['system', 'user', 'assistant', 'tool'] %}" +
  "{{ raise_exception('Unknown role ' + message['role']) }}{% endif %}" +
  "{{ '<|' + message['role'] + '|>' + (message['content'] or '') + '<|end|>' }}{% endfor %}" +
  "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}";

/** `tokenizer.json`: byte-level BPE without merges; `ignore_merges` takes a whole word if the vocabulary has it. */
export function tokenizerJson(): object {
  const spaced = words.map((word) => byteAlphabet[0x20] + word);
  const byteLevel = { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: true };
  return {
    version: '1.0',
    truncation: null,
    padding: null,
    added_tokens: controlTokens.map((content) => ({
      id: controlId(content),
      content,
      single_word: false,
      lstrip: false,
      rstrip: false,
      normalized: false,
      special: true,
    })),
    normalizer: null,
    pre_tokenizer: byteLevel,
    post_processor: byteLevel,
    decoder: byteLevel,
    model: {
      type: 'BPE',
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: false,
      byte_fallback: false,
      ignore_merges: true,
      vocab: Object.fromEntries([...byteAlphabet, ...spaced].map((token, id) => [token, id])),
      merges: [],
    },
  };
}

export function tokenizerConfigJson(modelMaxLength: number): object {
  return {
    tokenizer_class: 'PreTrainedTokenizerFast',
    model_max_length: modelMaxLength,
    bos_token: null,
    eos_token: '<|end|>',
    pad_token: '<|pad|>',
    unk_token: null,
    clean_up_tokenization_spaces: false,
    chat_template: chatTemplate,
  };
}

export function generationConfigJson() {
  const bytes = Array.from(byteAlphabet, (_, byte) => byte);
  return {
    eos_token_id: controlId('<|end|>'),
    pad_token_id: controlId('<|pad|>'),
    suppress_tokens: [...bytes, ...controlTokens.map(controlId)],
  };
}

export const eosTokenId = controlId('<|end|>');
