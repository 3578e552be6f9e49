// The picture, drawn by uPlot.

import uPlot from "uplot";
import "uplot/dist/uPlot.min.css";
import { short, table } from "./series.js";

const colours = ["#2f9e8f", "#d9822b", "#5b7fd6", "#c2528b", "#8a9a2c", "#8c62c9", "#c4493d", "#4d8fb3"];

export const colour = (index) => colours[index % colours.length];

// The time of a tick: with the day where a day is not enough to tell, with seconds where minutes are not.
const clock = { hour: "2-digit", minute: "2-digit", hour12: false };
const moment = (time, span) =>
  new Date(time * 1000).toLocaleString(undefined, {
    ...(span > 86400 ? { month: "short", day: "numeric" } : {}),
    ...clock,
    ...(time % 60 === 0 ? {} : { second: "2-digit" }),
  });

const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/** A chart that fills `place`, and follows its size. */
export class Chart {
  constructor(place) {
    this.place = place;
    this.plot = null;
    new ResizeObserver(() => this.plot?.setSize(this.size())).observe(place);
  }

  size() {
    return { width: this.place.clientWidth, height: this.place.clientHeight };
  }

  /** Draws the series over the last `seconds`. */
  draw(series, seconds) {
    const now = Date.now() / 1000;
    const axis = { stroke: style("--soft"), grid: { stroke: style("--line"), width: 1 }, ticks: { stroke: style("--line"), width: 1 } };
    this.plot?.destroy();
    this.plot = new uPlot(
      {
        ...this.size(),
        legend: { show: false },
        cursor: { points: { size: 7 }, drag: { x: false, y: false } },
        scales: { x: { range: [now - seconds, now] }, y: { range: roomy } },
        axes: [
          { ...axis, space: 80, values: (_, ticks) => ticks.map((time) => moment(time, seconds)) },
          { ...axis, size: 64, values: (_, ticks) => ticks.map(short) },
        ],
        series: [
          {},
          ...series.map((one, index) => ({
            label: one.target,
            stroke: colour(index),
            width: 2,
            fill: series.length === 1 ? `${colour(index)}22` : undefined,
            points: { size: 5, show: one.datapoints.filter(([value]) => value !== null).length < 40 },
            spanGaps: true,
          })),
        ],
      },
      table(series),
      this.place,
    );
  }
}

// Some room above and below; a flat line stands in the middle; zero stays the floor of what is never below it.
function roomy(_, min, max) {
  if (min === null || max === null) {
    return [0, 1];
  }
  const room = (max - min || Math.abs(max) || 1) * 0.15;
  return [min >= 0 ? Math.max(0, min - room) : min - room, max + room];
}
