// What a row of `bench kernels` is before it is measured, and how rows are put into processes.

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

/** Groups with the rows whose id contains `filter`; groups without any are left out. */
export function filterGroups(groups: readonly RowGroup[], filter: string): readonly RowGroup[] {
  return groups
    .map(({ family, rows }) => ({
      family,
      rows: rows.filter((row) => rowId(family, row).includes(filter)),
    }))
    .filter(({ rows }) => rows.length > 0);
}
