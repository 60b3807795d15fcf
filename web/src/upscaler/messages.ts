/** What the page and the worker that upscales say to each other. */

import type { EngineName } from "./engine"
import type { Network } from "./network"
import type { Format } from "./picture"

interface Files {
  network: Network
  /** Of the network's file, absolute. */
  url: string
  /** Of the service, "" without one. */
  key: string
}

/** Fetch the runtime and a network, so that the browser has them. */
export interface Keep extends Files {
  kind: "keep"
}

export interface Work extends Files {
  kind: "upscale"
  image: Blob
  /** Output pixels per input pixel. */
  factor: number
  format: Format
  quality: number
  pad: number
  maxPixels: number
  maxOutputPixels: number
}

export interface Made {
  kind: "made"
  blob: Blob
  engine: EngineName
  width: number
  height: number
}

export type Said =
  | { kind: "fetching"; done: number; total: number }
  | { kind: "tiles"; done: number; total: number }
  | { kind: "kept" }
  | { kind: "failed"; message: string }
  | Made
