/* Prints what the page predicts: JSON on stdin { forecast, points: [omegas] }, JSON on stdout [{ dataset: prediction }]. */
import { readFileSync } from "node:fs";
import vm from "node:vm";

const SCRIPT = process.env.DEM_ASSETS + "/live/forecast.js";
vm.runInThisContext(readFileSync(SCRIPT, "utf8"), SCRIPT);
const { forecast, points } = JSON.parse(readFileSync(0, "utf8"));
const page = new globalThis.dem.Forecast(forecast);
const values = Array.from({ length: 41 }, (_, place) => -1 + 3 * place / 40);
console.log(JSON.stringify(points.map((omegas) => ({
  ...Object.fromEntries([...page.datasets.keys()].map((name) => [name, page.predict(name, omegas)])),
  geometry: page.geometry(omegas),
  score: page.score(page.place(omegas)),
  slopes: page.slopes(omegas),
  along: page.along(omegas, page.names[1], values),
  moved: values.map((value) => page.score(page.place({ ...omegas, [page.names[1]]: value }))),
}))));
