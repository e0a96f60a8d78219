// One conversation through a cluster's proxy, for promises about what its answers are in every setting.
import type { ClusterOptions } from '../../src/server/cluster.js';
import { type TestCluster, withCluster } from '../with-cluster.js';
import { type Answer, chat, complete, type Message } from './by-hand.js';

/** Turn after turn on nodes of its own, each with all before it as its history; the pools are whole at the end, when `look` sees the nodes. */
export function playConversation(
  options: ClusterOptions,
  prompts: readonly string[],
  numAnswerTokens: number,
  look: (cluster: TestCluster) => Promise<void> = async () => {},
): Promise<Answer[]> {
  return withCluster(options, async (cluster) => {
    const history: Message[] = [];
    const answers: Answer[] = [];
    for (const content of prompts) {
      history.push({ role: 'user', content });
      const answer = await complete(cluster.proxyUrl, chat(history, numAnswerTokens, 'conversation'));
      history.push({ role: 'assistant', content: answer.text });
      answers.push(answer);
    }
    await cluster.assertWhole();
    await look(cluster);
    return answers;
  });
}

export const texts = (answers: readonly Answer[]): string[] => answers.map(({ text }) => text);
