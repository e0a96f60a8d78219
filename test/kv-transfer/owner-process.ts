// A node in a process of its own, for tests that stop or kill it: owns blocks 1 … 63 and reports what it is told.
import { fillBlock, layout, startNode } from './transfer-node.js';

process.env.VLLM_PD_LOG_LEVEL = 'silent';

const numBlocks = Number(process.argv[2]);
const node = await startNode({ engineId: 'owner', kind: 'auto', layout: { ...layout, numBlocks } });
for (let id = 1; id < numBlocks; id += 1) fillBlock(node.pool, id);
process.send?.({ host: node.agent.host, port: node.agent.port });

// A test that ends early leaves no owner behind.
process.on('disconnect', () => process.exit());
process.on('message', (message) => {
  if (message === 'close') {
    void node.close().then(() => process.disconnect());
  } else {
    process.send?.({ notifs: node.notifs, bytesSent: node.agent.bytesSent });
  }
});
