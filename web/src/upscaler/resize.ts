/** Lanczos as Pillow has it, with its fixed-point sums, so that other factors give what the server gives. */

import type { Plane } from "./tiling"

const SUPPORT = 3
const PRECISION = 22 // bits behind the point

function lanczos(x: number): number {
  if (x === 0) return 1
  if (Math.abs(x) >= SUPPORT) return 0
  const at = Math.PI * x
  return (SUPPORT * Math.sin(at) * Math.sin(at / SUPPORT)) / (at * at)
}

interface Taps {
  first: number
  weights: Int32Array
}

/** Which pixels of a line of `length` each pixel of the resized line is made of. */
function tapsOf(length: number, wanted: number): Taps[] {
  const scale = length / wanted
  const stretch = Math.max(scale, 1)
  const support = SUPPORT * stretch
  return Array.from({ length: wanted }, (_, index) => {
    const centre = (index + 0.5) * scale
    const first = Math.max(0, Math.trunc(centre - support + 0.5))
    const last = Math.min(length, Math.trunc(centre + support + 0.5))
    const raw = Array.from({ length: last - first }, (_, tap) => lanczos((tap + first - centre + 0.5) / stretch))
    const sum = raw.reduce((total, one) => total + one, 0)
    const fixed = raw.map(one => {
      const weight = (one / sum) * 2 ** PRECISION
      return Math.trunc(weight < 0 ? weight - 0.5 : weight + 0.5)
    })
    return { first, weights: Int32Array.from(fixed) }
  })
}

/**
 * Resample lines. Sample k of line n is at n * lineStep + k * step, in the source and in the target.
 */
function resample(
  source: Uint8Array,
  target: Uint8Array,
  taps: Taps[],
  lines: number,
  steps: { from: number; fromLine: number; to: number; toLine: number },
): void {
  for (let line = 0; line < lines; line++)
    for (let index = 0; index < taps.length; index++) {
      const { first, weights } = taps[index]!
      let sum = 2 ** (PRECISION - 1)
      let at = line * steps.fromLine + first * steps.from
      for (const weight of weights) {
        sum += source[at]! * weight
        at += steps.from
      }
      target[line * steps.toLine + index * steps.to] = Math.min(255, Math.max(0, Math.floor(sum / 2 ** PRECISION)))
    }
}

/** An image in another size: first the rows, then the columns, each rounded to 8 bits. */
export function resize(plane: Plane, width: number, height: number): Plane {
  const { channels } = plane
  let { data } = plane
  if (width !== plane.width) {
    const made = new Uint8Array(width * plane.height * channels)
    const taps = tapsOf(plane.width, width)
    const steps = { from: channels, fromLine: plane.width * channels, to: channels, toLine: width * channels }
    for (let channel = 0; channel < channels; channel++)
      resample(data.subarray(channel), made.subarray(channel), taps, plane.height, steps)
    data = made
  }
  if (height !== plane.height) {
    const row = width * channels
    const made = new Uint8Array(row * height)
    resample(data, made, tapsOf(plane.height, height), row, { from: row, fromLine: 1, to: row, toLine: 1 })
    data = made
  }
  return { data, width, height, channels }
}
