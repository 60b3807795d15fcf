import { useEffect, useRef, useState } from "preact/hooks"
import { t } from "../lib/i18n"
import { Slider } from "./controls"
import { Dialog } from "./dialog"
import { useUrl } from "./image_input"

const LONGEST = 1024
const COLOUR = "#18c7d4"
const KEYS: Record<string, [number, number]> = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }

interface Point {
  x: number
  y: number
}

/** What is painted, as an opaque image: white is made again, black is kept. Null if nothing is painted. */
export async function maskOf(painted: HTMLCanvasElement): Promise<Blob | null> {
  const { width, height } = painted
  const pixels = painted.getContext("2d")!.getImageData(0, 0, width, height).data
  if (!pixels.some((value, at) => at % 4 === 3 && value > 127)) return null
  const made = Object.assign(document.createElement("canvas"), { width, height })
  const context = made.getContext("2d")!
  context.drawImage(painted, 0, 0)
  context.globalCompositeOperation = "source-in"
  context.fillStyle = "#fff"
  context.fillRect(0, 0, width, height)
  context.globalCompositeOperation = "destination-over"
  context.fillStyle = "#000"
  context.fillRect(0, 0, width, height)
  return new Promise(resolve => made.toBlob(resolve, "image/png"))
}

/** A dialog in which a mask is painted over an image. */
export function MaskEditor(props: { image: Blob; onDone: (mask: Blob | null) => void; onClose: () => void }) {
  const url = useUrl(props.image)
  const canvas = useRef<HTMLCanvasElement>(null)
  const [brush, setBrush] = useState(12)
  const [erases, setErases] = useState(false)
  const [size, setSize] = useState<{ width: number; height: number } | null>(null)
  const [cursor, setCursor] = useState<Point | null>(null)
  const last = useRef<Point | null>(null)

  useEffect(() => {
    let over = false
    void createImageBitmap(props.image).then(found => {
      const scale = Math.min(1, LONGEST / Math.max(found.width, found.height))
      if (!over) setSize({ width: Math.round(found.width * scale), height: Math.round(found.height * scale) })
    })
    return () => void (over = true)
  }, [props.image])

  const radius = (): number => (Math.min(size!.width, size!.height) * brush) / 200
  const stroke = (from: Point, to: Point): void => {
    const context = canvas.current!.getContext("2d")!
    context.globalCompositeOperation = erases ? "destination-out" : "source-over"
    context.strokeStyle = COLOUR
    context.lineCap = "round"
    context.lineWidth = 2 * radius()
    context.beginPath()
    context.moveTo(from.x, from.y)
    context.lineTo(to.x + 0.01, to.y) // a line without length is not drawn
    context.stroke()
  }
  const pointOf = (event: PointerEvent): Point => {
    const box = canvas.current!.getBoundingClientRect()
    return {
      x: ((event.clientX - box.left) / box.width) * size!.width,
      y: ((event.clientY - box.top) / box.height) * size!.height,
    }
  }
  const moved = (event: PointerEvent): void => {
    if (last.current === null) return
    const point = pointOf(event)
    stroke(last.current, point)
    last.current = point
  }
  const typed = (event: KeyboardEvent): void => {
    const at = cursor ?? { x: size!.width / 2, y: size!.height / 2 }
    const way = KEYS[event.key]
    if (way) {
      const next = { x: at.x + way[0] * radius(), y: at.y + way[1] * radius() }
      setCursor({ x: Math.min(Math.max(next.x, 0), size!.width), y: Math.min(Math.max(next.y, 0), size!.height) })
    } else if (event.key === " ") {
      setCursor(at)
      stroke(at, at)
    } else return
    event.preventDefault()
  }
  const clear = (): void => canvas.current!.getContext("2d")!.clearRect(0, 0, size!.width, size!.height)
  const done = async (): Promise<void> => props.onDone(await maskOf(canvas.current!))

  return (
    <Dialog title={t("mask.paint")} class="wide" onClose={props.onClose}>
      <p>{t("mask.explain")}</p>
      {url && size ? (
        <div class="mask-editor">
          <img src={url} alt="" />
          <canvas
            ref={canvas}
            width={size.width}
            height={size.height}
            tabIndex={0}
            role="application"
            aria-label={t("mask.canvas")}
            onKeyDown={typed}
            onPointerDown={event => {
              canvas.current!.setPointerCapture(event.pointerId)
              last.current = pointOf(event)
              stroke(last.current, last.current)
            }}
            onPointerMove={moved}
            onPointerUp={() => (last.current = null)}
            onPointerCancel={() => (last.current = null)}
          />
          {cursor ? (
            <span
              class="mask-cursor"
              style={{ left: `${(100 * cursor.x) / size.width}%`, top: `${(100 * cursor.y) / size.height}%` }}
            />
          ) : null}
        </div>
      ) : (
        <p>{t("loading")}</p>
      )}
      <div class="row">
        <Slider label={t("mask.size")} value={brush} min={2} max={60} step={1} onChange={setBrush} />
        <label class="switch">
          <input type="checkbox" checked={erases} onChange={event => setErases(event.currentTarget.checked)} />
          <span>{t("mask.erase")}</span>
        </label>
        <button type="button" onClick={clear}>{t("mask.clear")}</button>
        <button type="button" class="primary" onClick={() => void done()}>{t("mask.done")}</button>
      </div>
    </Dialog>
  )
}
