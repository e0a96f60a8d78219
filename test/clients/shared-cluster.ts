// One cluster for all tests of a file, where starting one takes longer than the tests. Whole again behind the last test.
import type { Test } from 'uvu';
import type { ClusterOptions } from '../../src/server/cluster.js';
import { type TestCluster, withCluster } from '../with-cluster.js';

/** Starts before the first test of `suite` and stops behind its last; what is returned is for use inside tests. */
export function shareCluster(suite: Test, options: ClusterOptions = {}): () => TestCluster {
  let cluster: TestCluster | undefined;
  let stop: () => void;
  let stopped: Promise<void>;

  suite.before(async () => {
    await new Promise<void>((resolve, reject) => {
      stopped = withCluster(options, async (running) => {
        cluster = running;
        const end = new Promise<void>((leave) => {
          stop = leave;
        });
        resolve();
        await end;
        await running.assertWhole();
      });
      stopped.catch(reject);
    });
  });

  suite.after(async () => {
    stop();
    await stopped;
  });

  return () => {
    if (!cluster) throw new Error('Expected the cluster to be used inside a test.');
    return cluster;
  };
}
