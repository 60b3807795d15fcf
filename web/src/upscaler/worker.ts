/** Upscales one image. To stop, the page ends the worker. */

import { Engine, fetchEngine, usualEngine, type EngineName } from "./engine"
import type { Keep, Made, Said, Work } from "./messages"
import { networkBytes } from "./network"
import { decode, encode, type Picture } from "./picture"
import { resize } from "./resize"
import { cut, paste, tiles, type Plane } from "./tiling"

const SMALLEST_TILE = 32

const say = (said: Said): void => postMessage(said)

addEventListener("message", (event: MessageEvent<Keep | Work>) => {
  const work = event.data
  const done = work.kind === "keep" ? keep(work) : upscale(work)
  done.then(say, (error: unknown) => say({ kind: "failed", message: error instanceof Error ? error.message : String(error) }))
})

async function keep({ network, url, key }: Keep): Promise<Said> {
  await fetchEngine(await usualEngine())
  await networkBytes(network, url, key, done => say({ kind: "fetching", done, total: network.bytes }))
  return { kind: "kept" }
}

async function upscale(work: Work): Promise<Made> {
  const picture = await decode(work.image)
  const size = checkedSize(picture, work)
  const bytes = await networkBytes(work.network, work.url, work.key, done =>
    say({ kind: "fetching", done, total: work.network.bytes }),
  )
  let { larger, engine } = await enlarged(picture, work, bytes)
  if (larger.rgb.width !== size.width || larger.rgb.height !== size.height)
    larger = {
      rgb: resize(larger.rgb, size.width, size.height),
      alpha: larger.alpha && resize(larger.alpha, size.width, size.height),
    }
  const blob = await encode(larger, work.format, work.quality)
  return { kind: "made", blob, engine, ...size }
}

/** The size of the result. @throws Error where it or the image is larger than the service takes */
function checkedSize({ rgb }: Picture, { factor, maxPixels, maxOutputPixels }: Work): { width: number; height: number } {
  const width = Math.max(1, Math.floor(rgb.width * factor + 0.5))
  const height = Math.max(1, Math.floor(rgb.height * factor + 0.5))
  const refuse = (what: string, [x, y]: [number, number], most: number): void => {
    if (x * y > most) throw new Error(`${what} ${x}x${y} = ${x * y} pixels; at most ${most} are allowed.`)
  }
  refuse("The image has", [rgb.width, rgb.height], maxPixels)
  refuse("The result would have", [width, height], maxOutputPixels)
  return { width, height }
}

/** Run the network over the image: on the CPU where WebGPU fails, and with half the tile where memory is short. */
async function enlarged(picture: Picture, work: Work, bytes: Uint8Array): Promise<{ larger: Picture; engine: EngineName }> {
  const { width, height } = picture.rgb
  let name = await usualEngine()
  let engine: Engine | null = null
  let tile = Math.min(name === "webgpu" ? work.network.tile : work.network.tile_cpu, Math.max(width, height))
  for (;;) {
    try {
      engine ??= await Engine.load(name, bytes)
      return { larger: await inTiles(picture, work, engine, tile), engine: name }
    } catch (error) {
      if (name === "webgpu") {
        console.warn("WebGPU failed; going on with WebAssembly.", error)
        name = "wasm"
        engine = null
        tile = Math.min(work.network.tile_cpu, Math.max(width, height))
      } else if (/alloc|memory/i.test(String(error)) && Math.floor(tile / 2) >= SMALLEST_TILE) {
        tile = Math.floor(tile / 2)
      } else throw error
    }
  }
}

/** All tiles of the colours and, where it varies, of alpha. */
async function inTiles({ rgb, alpha }: Picture, work: Work, engine: Engine, tile: number): Promise<Picture> {
  const { scale } = work.network
  const empty = (channels: 1 | 3): Plane => {
    const [width, height] = [rgb.width * scale, rgb.height * scale]
    return { data: new Uint8Array(width * height * channels), width, height, channels }
  }
  const larger: Picture = { rgb: empty(3), alpha: alpha && empty(1) }
  const planes: [Plane, Plane][] = [[rgb, larger.rgb]]
  if (alpha && larger.alpha) {
    if (alpha.data.every(value => value === alpha.data[0])) larger.alpha.data.fill(alpha.data[0]!)
    else planes.push([alpha, larger.alpha])
  }
  const windows = tiles(rgb.width, rgb.height, tile, work.pad)
  const total = planes.length * windows.length
  let done = 0
  say({ kind: "tiles", done, total })
  for (const [source, target] of planes)
    for (const window of windows) {
      paste(await engine.run(cut(source, window)), target, window, scale)
      say({ kind: "tiles", done: ++done, total })
    }
  return larger
}
