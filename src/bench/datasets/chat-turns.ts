// A recorded chat as turns: whatever comes before an answer is that turn's input, system and tool messages included.
import type { ChatMessage } from '../client.js';
import type { DatasetTurn, Tally } from './dataset.js';

/** `assistant` is what the server will say itself; of it only the length counts. */
export function chatTurns(messages: readonly ChatMessage[], tally: Tally): DatasetTurn[] {
  const turns: DatasetTurn[] = [];
  let input: ChatMessage[] = [];
  let answer = '';
  const close = (text: string | null) => {
    turns.push({
      input: { kind: 'messages', messages: input },
      output: text === null ? null : { kind: 'text', text },
      arrivalMs: null,
      delayMs: null,
    });
    [input, answer] = [[], ''];
  };
  for (const message of messages) {
    if (message.content === '') {
      tally.skip('messages without text');
    } else if (message.role !== 'assistant') {
      if (answer !== '') close(answer);
      input.push(message);
    } else if (input.some(({ role }) => role !== 'system')) {
      answer += message.content;
    } else {
      tally.skip('answers to nothing, at the beginning of a conversation');
    }
  }
  if (answer !== '') close(answer);
  // A question that was not answered is asked; a system message alone is none.
  else if (input.some(({ role }) => role !== 'system')) close(null);
  return turns;
}
