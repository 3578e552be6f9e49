// Pure functions on Graphite's series, apart from the page so that they can be tested.

/**
 * Puts series with different times into the one table that the chart wants:
 * first the times, sorted, then each series' values at them, null where it has none.
 */
export function table(series) {
  const times = [...new Set(series.flatMap((one) => one.datapoints.map(([, time]) => time)))].sort((a, b) => a - b);
  const row = new Map(times.map((time, index) => [time, index]));
  const columns = series.map((one) => {
    const values = new Array(times.length).fill(null);
    for (const [value, time] of one.datapoints) {
      values[row.get(time)] = value;
    }
    return values;
  });
  return [times, ...columns];
}

/** The last, least, mean and greatest value of a series; null where it has no values. */
export function summary(one) {
  const values = one.datapoints.map(([value]) => value).filter((value) => value !== null);
  if (values.length === 0) {
    return { last: null, min: null, mean: null, max: null };
  }
  let [min, max, sum] = [Infinity, -Infinity, 0];
  for (const value of values) {
    min = Math.min(min, value);
    max = Math.max(max, value);
    sum += value;
  }
  return { last: values.at(-1), min, mean: sum / values.length, max };
}

const units = [
  [1e12, "T"],
  [1e9, "G"],
  [1e6, "M"],
  [1e3, "k"],
];

/** A number for people: at most four digits, with k, M, G or T. */
export function short(value) {
  if (value === null || value === undefined) {
    return "–";
  }
  const [factor, unit] = units.find(([factor]) => Math.abs(value) >= factor) ?? [1, ""];
  return `${Number((value / factor).toPrecision(4))}${unit}`;
}
