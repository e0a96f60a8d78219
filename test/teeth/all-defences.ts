// Every defence that is tried, by what it guards.
import type { Defence } from './defence.js';
import { clientDefences } from './defences/clients.js';
import { nativeDefences } from './defences/native.js';
import { overloadDefences } from './defences/overload.js';
import { storeDefences } from './defences/stores.js';
import { turnDefences } from './defences/turns.js';
import { wireDefences } from './defences/wire.js';

export const allDefences: readonly Defence[] = [
  ...wireDefences,
  ...clientDefences,
  ...turnDefences,
  ...storeDefences,
  ...overloadDefences,
  // Last, since the addon is built for each of them.
  ...nativeDefences,
];
