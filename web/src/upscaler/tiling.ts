/** The windows of an image, cut as the server does it (darkroom/tiling.py): all of one shape, mirrored at the border. */

const STEP = 8

/** Along one axis: the network reads start..stop, and of its output only coreStart..coreStop is kept. */
export interface Span {
  start: number
  stop: number
  coreStart: number
  coreStop: number
}

export interface Tile {
  rows: Span
  columns: Span
}

/** Pixels, row by row, with 1 or 3 channels. */
export interface Plane {
  data: Uint8Array
  width: number
  height: number
  channels: 1 | 3
}

/** As Python's `round`: halves go to the even neighbour. */
function rounded(value: number): number {
  const down = Math.floor(value)
  const rest = value - down
  if (rest !== 0.5) return Math.round(value)
  return down % 2 === 0 ? down : down + 1
}

/** Divide `length` pixels into cores of at most `tile`, each read with at least `pad` pixels on either side. */
export function spans(length: number, tile: number, pad: number): Span[] {
  const count = tile === 0 ? 1 : Math.ceil(length / tile)
  const core = Math.ceil(length / count)
  const window = Math.ceil((core + 2 * pad) / STEP) * STEP
  return Array.from({ length: count }, (_, index) => {
    const coreStart = rounded((index * length) / count)
    const coreStop = rounded(((index + 1) * length) / count)
    const start = coreStart - Math.floor((window - (coreStop - coreStart)) / 2)
    return { start, stop: start + window, coreStart, coreStop }
  })
}

/** All windows of an image, row by row. */
export function tiles(width: number, height: number, tile: number, pad: number): Tile[] {
  const columns = spans(width, tile, pad)
  return spans(height, tile, pad).flatMap(rows => columns.map(column => ({ rows, columns: column })))
}

/** The positions of a span, those outside of the image reflected at its outermost pixels. */
function mirrored(span: Span, length: number): number[] {
  const period = Math.max(1, 2 * (length - 1))
  return Array.from({ length: span.stop - span.start }, (_, index) => {
    const position = (((span.start + index) % period) + period) % period
    return Math.min(position, period - position)
  })
}

/** A window of an image with 3 channels; one channel is repeated. */
export function cut(source: Plane, window: Tile): Plane {
  const rows = mirrored(window.rows, source.height)
  const columns = mirrored(window.columns, source.width)
  const data = new Uint8Array(rows.length * columns.length * 3)
  const { channels } = source
  const second = channels === 3 ? 1 : 0
  let to = 0
  for (const row of rows)
    for (const column of columns) {
      const from = (row * source.width + column) * channels
      data[to++] = source.data[from]!
      data[to++] = source.data[from + second]!
      data[to++] = source.data[from + 2 * second]!
    }
  return { data, width: columns.length, height: rows.length, channels: 3 }
}

/** Copy the core of an enlarged window to its place; a target with one channel takes the green. */
export function paste(enlarged: Uint8Array, target: Plane, window: Tile, scale: number): void {
  const { rows, columns } = window
  const stride = (columns.stop - columns.start) * scale * 3
  const left = (columns.coreStart - columns.start) * scale
  const width = (columns.coreStop - columns.coreStart) * scale
  for (let row = rows.coreStart * scale; row < rows.coreStop * scale; row++) {
    const from = (row - rows.start * scale) * stride + left * 3
    const to = row * target.width + columns.coreStart * scale
    if (target.channels === 3) target.data.set(enlarged.subarray(from, from + width * 3), to * 3)
    else for (let index = 0; index < width; index++) target.data[to + index] = enlarged[from + index * 3 + 1]!
  }
}
