import { useEffect, useState } from "preact/hooks"
import { t } from "../lib/i18n"
import { IconButton } from "./icons"

/** A URL for a blob, for as long as the component shows it. */
export function useUrl(blob: Blob | null): string | null {
  const [url, setUrl] = useState<string | null>(null)
  useEffect(() => {
    if (blob === null) return setUrl(null)
    const made = URL.createObjectURL(blob)
    setUrl(made)
    return () => URL.revokeObjectURL(made)
  }, [blob])
  return url
}

/** The images of a drop or of the clipboard. */
export function imagesIn(data: DataTransfer | null): File[] {
  return [...(data?.files ?? [])].filter(file => file.type.startsWith("image/"))
}

/** A place where images are dropped, pasted (while it has the focus) or chosen. */
export function DropZone(props: { label: string; several?: boolean; onFiles: (files: File[]) => void }) {
  const [over, setOver] = useState(false)
  const give = (files: File[]): void => {
    if (files.length) props.onFiles(props.several ? files : files.slice(0, 1))
  }
  const taken = (event: Event): void => {
    event.preventDefault()
    event.stopPropagation()
  }
  return (
    <label
      class={`drop ${over ? "over" : ""}`}
      onDragOver={event => {
        taken(event)
        setOver(true)
      }}
      onDragLeave={() => setOver(false)}
      onDrop={event => {
        taken(event)
        setOver(false)
        give(imagesIn(event.dataTransfer))
      }}
      onPaste={event => {
        const files = imagesIn(event.clipboardData)
        if (files.length) taken(event)
        give(files)
      }}
    >
      <input
        type="file"
        class="visually-hidden"
        accept="image/*"
        multiple={props.several}
        aria-label={props.label}
        onChange={event => {
          give([...(event.currentTarget.files ?? [])])
          event.currentTarget.value = ""
        }}
      />
      <span aria-hidden="true">{t(props.several ? "image.chooseSeveral" : "image.choose")}</span>
    </label>
  )
}

export function Thumbnail(props: { blob: Blob; name: string; onRemove?: () => void }) {
  const url = useUrl(props.blob)
  return (
    <figure class="thumbnail">
      {url ? <img src={url} alt={props.name} /> : null}
      {props.onRemove ? (
        <IconButton icon="close" label={t("image.remove", { name: props.name })} onClick={props.onRemove} />
      ) : null}
    </figure>
  )
}

/** One image of a request. */
export function ImageInput(props: { label: string; value: Blob | null; onChange: (value: Blob | null) => void }) {
  return props.value ? (
    <Thumbnail blob={props.value} name={props.label} onRemove={() => props.onChange(null)} />
  ) : (
    <DropZone label={props.label} onFiles={([file]) => props.onChange(file ?? null)} />
  )
}
