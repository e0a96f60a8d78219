// API.md's table of request fields is made of the schemas; with VLLM_PD_UPDATE_DOCS=1 this test writes it.
import { readFileSync, writeFileSync } from 'node:fs';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { z } from 'zod';
import { chatCompletionSchema, completionSchema } from '../../../src/server/api/openai-schema.js';
import { fieldInfo } from '../../../src/server/api/request-field.js';

const file = new URL('../../../../API.md', import.meta.url);
const begin = '<!-- table: request fields -->\n';
const end = '<!-- end of table -->\n';

type Shape = Readonly<Record<string, z.ZodType>>;
const completions: Shape = completionSchema.shape;
const chat: Shape = chatCompletionSchema.shape;

const supports = ['yes', 'no effect', 'refused'];

function row(name: string): { readonly rank: number; readonly text: string } {
  const infos = [completions[name], chat[name]].map((schema) => {
    if (!schema) return null;
    const { support, note } = fieldInfo(schema);
    return { support, note: note === name ? '' : note };
  });
  const [inCompletions, inChat] = infos;
  const notes = new Set(infos.flatMap((info) => (info?.note ? [info.note] : [])));
  const note =
    notes.size < 2 ? [...notes].join('') : `completions: ${inCompletions!.note}; chat: ${inChat!.note}`;
  const cells = [`\`${name}\``, inCompletions?.support ?? '', inChat?.support ?? '', note];
  return {
    rank: Math.min(...infos.flatMap((info) => (info ? [supports.indexOf(info.support)] : []))),
    text: `| ${cells.map((cell) => cell.replaceAll('|', '\\|')).join(' | ')} |\n`,
  };
}

function table(): string {
  const rows = [...new Set([...Object.keys(completions), ...Object.keys(chat)])].map(row);
  // Stable: within a kind as the schemas have them.
  const sorted = rows.sort((a, b) => a.rank - b.rank).map(({ text }) => text);
  return `\n| field | completions | chat | note |\n|---|---|---|---|\n${sorted.join('')}\n`;
}

test('API.md lists every request field, and how far it is supported', () => {
  const text = readFileSync(file, 'utf8');
  const from = text.indexOf(begin) + begin.length;
  const to = text.indexOf(end);
  assert.ok(from >= begin.length && to >= from);
  if (process.env.VLLM_PD_UPDATE_DOCS === '1') {
    writeFileSync(file, text.slice(0, from) + table() + text.slice(to));
    return;
  }
  assert.is(text.slice(from, to), table(), 'Run this file with VLLM_PD_UPDATE_DOCS=1.');
});

test('a refused field takes null and false, and nothing else', () => {
  for (const shape of [completions, chat]) {
    for (const [name, schema] of Object.entries(shape)) {
      if (fieldInfo(schema).support !== 'refused') continue;
      for (const value of [undefined, null, false]) assert.ok(schema.safeParse(value).success, name);
      for (const value of [true, 1, 'a', [], {}]) assert.not(schema.safeParse(value).success, name);
    }
  }
});

test('every supported field but the prompt takes null', () => {
  for (const shape of [completions, chat]) {
    for (const [name, schema] of Object.entries(shape)) {
      if (name === 'prompt' || name === 'messages') continue;
      assert.ok(schema.safeParse(null).success, name);
    }
  }
});

test.run();
