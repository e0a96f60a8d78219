// Request bodies: JSON, with limits for one of them and for all that are coming in.
import type { IncomingMessage } from 'node:http';
import { messageOf, VllmPdError } from '../errors.js';
import { BodyBudget } from './body-budget.js';
import { nestsDeeperThan } from './json-depth.js';

/** Largest request body that is read, in bytes: a prompt of some million token ids. */
const defaultBodyLimitBytes = 32 * 1024 * 1024;

/** Of all requests of this process that are coming in. */
const bodyBudget = new BodyBudget(256 * 1024 * 1024);

/** Reads the whole body. A body over the limit is drained, so that the client gets to read the answer, and BODY_TOO_LARGE. */
async function readBody(req: IncomingMessage, limitBytes: number, budget: BodyBudget): Promise<Buffer> {
  const chunks: Buffer[] = [];
  let numBytes = 0;
  let numKept = 0;
  try {
    for await (const chunk of req as AsyncIterable<Buffer>) {
      numBytes += chunk.length;
      if (numBytes <= limitBytes) {
        budget.take(chunk.length);
        numKept += chunk.length;
        chunks.push(chunk);
      } else {
        chunks.length = 0;
      }
      // Leaving the loop destroys the connection: nobody has to swallow an endless body.
      if (numBytes > 4 * limitBytes) break;
    }
  } finally {
    budget.giveBack(numKept);
  }
  if (numBytes > limitBytes) {
    const message = `Expected a request body of at most ${limitBytes} bytes but received more.`;
    throw new VllmPdError('BODY_TOO_LARGE', message);
  }
  return Buffer.concat(chunks);
}

/** Far more than any request needs; what recurses over a body stays far from the end of its stack. */
const maxJsonDepth = 100;

/** The parsed body; INVALID_ARGUMENT when it is no JSON, or lists and objects in it nest more than 100 deep. */
export async function readJson(
  req: IncomingMessage,
  limitBytes = defaultBodyLimitBytes,
  budget = bodyBudget,
): Promise<unknown> {
  const body = await readBody(req, limitBytes, budget);
  if (nestsDeeperThan(body, maxJsonDepth)) {
    const message = `Expected a JSON body nested at most ${maxJsonDepth} deep but received a deeper one.`;
    throw new VllmPdError('INVALID_ARGUMENT', message);
  }
  try {
    return JSON.parse(body.toString('utf8')) as unknown;
  } catch (cause) {
    const received = body.length === 0 ? 'an empty body' : `a body that is none: ${messageOf(cause)}`;
    throw new VllmPdError('INVALID_ARGUMENT', `Expected a JSON body but received ${received}.`, { cause });
  }
}
