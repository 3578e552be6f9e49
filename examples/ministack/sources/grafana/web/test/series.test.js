import assert from "node:assert/strict";
import { test } from "node:test";
import { short, summary, table } from "../src/series.js";

test("series with different times share one table", () => {
  const a = { datapoints: [[1, 10], [null, 20], [3, 30]] };
  const b = { datapoints: [[7, 15], [8, 30]] };
  assert.deepEqual(table([a, b]), [
    [10, 15, 20, 30],
    [1, null, null, 3],
    [null, 7, null, 8],
  ]);
  assert.deepEqual(table([]), [[]]);
});

test("the summary leaves gaps out", () => {
  assert.deepEqual(summary({ datapoints: [[1, 10], [5, 20], [null, 30]] }), { last: 5, min: 1, mean: 3, max: 5 });
  assert.deepEqual(summary({ datapoints: [[null, 10]] }), { last: null, min: null, mean: null, max: null });
});

test("numbers are short", () => {
  assert.deepEqual([0, 0.12345, 1234, 12345678, -2.5e9, null].map(short), ["0", "0.1235", "1.234k", "12.35M", "-2.5G", "–"]);
});
