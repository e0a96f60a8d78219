// What a row of `bench kernels` is before it is measured, and how rows are put into processes.

import type { Target } from './target.js';

/** Work that is timed. */
export interface Work {
  /** One round. */
  run(): void | Promise<void>;
  /** Before each round, not timed. */
  before?(): void | Promise<void>;
  /** Units of the row in one round. */
  readonly amount: number;
}

/** A row's work, and the work that says how fast it could be on this machine; both are measured in turns. */
export interface Contest {
  readonly subject: Work;
  readonly limit: Work;
  close(): void | Promise<void>;
}

export interface RowPlan {
  readonly name: string;
  readonly threads: number;
  /** A rate: the more, the better. */
  readonly unit: string;
  /** What `Contest.limit` is. */
  readonly limit: string;
  /** What is asked of it; absent = it only shows where the time goes. */
  readonly asked?: Target;
  /** One of many alike: left out of a run that names no rows. */
  readonly isDetail?: boolean;
  prepare(): Contest | Promise<Contest>;
}

/** Rows that are measured one after the other in a process of their own. */
export interface RowGroup {
  /** Rows are called `family/name`; a family may have several groups. */
  readonly family: string;
  readonly rows: readonly RowPlan[];
}

/** The numbers of threads that are measured: two only where there are two cores. */
export function threadCounts(numCores: number): readonly number[] {
  return numCores > 1 ? [1, 2] : [1];
}

/** `family/name xN`, N the threads: what --filter looks at. */
export function rowId(family: string, { name, threads }: Pick<RowPlan, 'name' | 'threads'>): string {
  return `${family}/${name} x${threads}`;
}

/** Which rows a run has. */
export interface RowChoice {
  /** Part of the ids of the rows wanted; empty = those that stand for all, without details. */
  readonly filter: string;
  /** Without a filter: with details. */
  readonly all: boolean;
}

/** Groups with the rows that were chosen; groups without any are left out. */
export function chooseRows(groups: readonly RowGroup[], { filter, all }: RowChoice): readonly RowGroup[] {
  const isChosen = (family: string, row: RowPlan) =>
    filter === '' ? all || !row.isDetail : rowId(family, row).includes(filter);
  return groups
    .map(({ family, rows }) => ({ family, rows: rows.filter((row) => isChosen(family, row)) }))
    .filter(({ rows }) => rows.length > 0);
}
