// Process entry: what rows measure from outside, until their process lets go of it.
import { serveHttp } from './http-peer.js';
import type { PeerOptions } from './peer.js';
import { serveProxy } from './proxy-peer.js';
import { serveTransfers } from './transfer-peer.js';

process.once('disconnect', () => process.exit());
const options = JSON.parse(process.argv[2]!) as PeerOptions;
if (options.kind === 'http') await serveHttp();
else if (options.kind === 'proxy') await serveProxy(options.modelPath, options.mode);
else await serveTransfers(options.layout);
