import { useState } from "preact/hooks"
import { t } from "../lib/i18n"
import { useUrl } from "./image_input"
import { ServerImage } from "./server_image"

const ZOOMS = [1, 2, 4, 8]

/** Two images on each other with a slider between them, and zoom. The left one is stretched to the size of the right. */
export function Compare(props: { before: Blob | string; after: Blob | string; alt: string }) {
  const [share, setShare] = useState(50)
  const [zoom, setZoom] = useState(1)
  return (
    <div class="compare">
      <div class="compare-window" tabIndex={0} role="group" aria-label={props.alt}>
        <div class="compare-images" style={{ width: `${100 * zoom}%`, "--share": `${share}%` }}>
          <Side image={props.after} alt={`${props.alt}: ${t("compare.after")}`} />
          <div class="compare-before">
            <Side image={props.before} alt={`${props.alt}: ${t("compare.before")}`} />
          </div>
        </div>
      </div>
      <div class="compare-tools">
        <span aria-hidden="true">{t("compare.before")}</span>
        <input
          type="range"
          min="0"
          max="100"
          value={share}
          aria-label={t("compare.slider")}
          onInput={event => setShare(Number(event.currentTarget.value))}
        />
        <span aria-hidden="true">{t("compare.after")}</span>
        <div class="segments" role="group" aria-label={t("compare.zoom")}>
          {ZOOMS.map(one => (
            <button key={one} type="button" aria-pressed={zoom === one} onClick={() => setZoom(one)}>
              {one}×
            </button>
          ))}
        </div>
      </div>
    </div>
  )
}

/** An image from memory, or of the service. */
function Side({ image, alt }: { image: Blob | string; alt: string }) {
  const url = useUrl(image instanceof Blob ? image : null)
  if (typeof image === "string") return <ServerImage path={image} alt={alt} />
  return url ? <img src={url} alt={alt} /> : null
}
