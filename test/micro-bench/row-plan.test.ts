// Choosing rows and putting blocks in order, without measuring anything.
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { fragmentedIds } from '../../src/micro-bench/blocks.js';
import { chooseRows, type RowGroup, rowId, threadCounts } from '../../src/micro-bench/row-plan.js';

function group(family: string, ...names: readonly string[]): RowGroup {
  return {
    family,
    rows: names.map((name) => ({
      name,
      threads: 1,
      unit: 'GB/s',
      limit: 'memcpy',
      prepare: () => {
        throw new Error('nothing is to be measured');
      },
    })),
  };
}

function idsOf(groups: readonly RowGroup[]): readonly string[] {
  return groups.flatMap(({ family, rows }) => rows.map((row) => rowId(family, row)));
}

test('a filter keeps the rows whose id has it, and drops groups without any', () => {
  const groups = [group('gemm', 'a', 'b'), group('core', 'block hash'), group('gemm', 'c')];
  const ids = (filter: string) => idsOf(chooseRows(groups, { filter, all: false }));
  assert.equal(ids(''), ['gemm/a x1', 'gemm/b x1', 'core/block hash x1', 'gemm/c x1']);
  assert.equal(ids('gemm/b'), ['gemm/b x1']);
  assert.is(chooseRows(groups, { filter: 'core', all: false }).length, 1);
  assert.equal(ids('x3'), []);
});

test('details are left out unless all rows or some by name are wanted', () => {
  const [whole, part] = [group('gemm', 'a'), group('gemm', 'b')];
  const groups = [whole!, { ...part!, rows: part!.rows.map((row) => ({ ...row, isDetail: true })) }];
  const ids = (filter: string, all: boolean) => idsOf(chooseRows(groups, { filter, all }));
  assert.equal(ids('', false), ['gemm/a x1']);
  assert.equal(ids('', true), ['gemm/a x1', 'gemm/b x1']);
  assert.equal(ids('gemm/b', false), ['gemm/b x1']);
});

test('fragmented ids are every id once, and no two neighbours are adjacent', () => {
  for (const count of [16, 64, 100, 256, 1024]) {
    const ids = fragmentedIds(count);
    assert.is(new Set(ids).size, count);
    assert.is(Math.max(...ids), count - 1);
    for (let i = 1; i < count; i += 1) assert.ok(Math.abs(ids[i]! - ids[i - 1]!) > 1, `${count}: ${i}`);
  }
});

test('two threads are measured where there are two cores', () => {
  assert.equal(threadCounts(1), [1]);
  assert.equal(threadCounts(2), [1, 2]);
  assert.equal(threadCounts(64), [1, 2]);
});

test.run();
