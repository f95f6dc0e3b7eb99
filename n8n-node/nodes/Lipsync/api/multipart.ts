/**
 * A multipart/form-data body made from n8n's binaries without holding them in memory.
 *
 * Files that n8n keeps on disk, in S3 or in its database are read in chunks during the upload. Only files of n8n's old
 * in-memory mode are buffers. The length is computed first, so that the server can refuse a large body at its header.
 */
import { randomUUID } from 'crypto';
import type { IBinaryData, IDataObject, IExecuteFunctions } from 'n8n-workflow';

import type { ByteStream } from './client';
import { findInput, type WantedInput } from './inputs';

export interface FilePart {
	field: string;
	fileName: string;
	mimeType: string;
	sizeBytes: number;
	/** The ID under which n8n stores the file, or the bytes of the file. */
	source: { id: string } | { buffer: Buffer };
}

export interface Form {
	texts: Record<string, string>;
	files: FilePart[];
}

export interface Body {
	content: Buffer | ByteStream;
	headers: IDataObject;
}

const CHUNK_BYTES = 256 * 1024;

/** The file in `field` of an item, as the form's part `wanted.name`. */
export async function filePart(
	context: IExecuteFunctions,
	itemIndex: number,
	field: unknown,
	wanted: WantedInput,
): Promise<FilePart> {
	const { binary, from } = findInput(context, itemIndex, field, wanted);
	const part = {
		field: wanted.name,
		fileName: fileName(binary, wanted.name),
		mimeType: binary.mimeType,
	};
	if (binary.id) {
		const { fileSize } = await context.helpers.getBinaryMetadata(binary.id);
		return { ...part, sizeBytes: fileSize, source: { id: binary.id } };
	}
	const buffer =
		typeof from === 'string'
			? await context.helpers.getBinaryDataBuffer(itemIndex, from)
			: Buffer.from(binary.data, 'base64');
	return { ...part, sizeBytes: buffer.length, source: { buffer } };
}

/** The body for `form`, with its headers. Every attempt needs a new one, because a stream can be sent only once. */
export async function encode(context: IExecuteFunctions, form: Form): Promise<Body> {
	const boundary = `lipsync-${randomUUID()}`;
	const open = async (id: string) => await context.helpers.getBinaryStream(id, CHUNK_BYTES);
	const texts = Buffer.concat(
		Object.entries(form.texts).map(([name, text]) =>
			Buffer.from(
				`--${boundary}\r\nContent-Disposition: form-data; name="${name}"\r\n\r\n${text}\r\n`,
			),
		),
	);
	const parts = form.files.map((file) => ({ file, head: Buffer.from(partHead(boundary, file)) }));
	const newLine = Buffer.from('\r\n');
	const end = Buffer.from(`--${boundary}--\r\n`);
	const nBytes = parts.reduce(
		(sum, { file, head }) => sum + head.length + file.sizeBytes + newLine.length,
		texts.length + end.length,
	);
	const headers = {
		'Content-Type': `multipart/form-data; boundary=${boundary}`,
		'Content-Length': nBytes,
	};

	async function* bytes(firstStream?: ByteStream): AsyncGenerator<Uint8Array> {
		let opened = firstStream;
		yield texts;
		for (const { file, head } of parts) {
			yield head;
			if ('buffer' in file.source) {
				yield file.source.buffer;
			} else {
				yield* (opened ?? (await open(file.source.id))) as AsyncIterable<Buffer>;
				opened = undefined;
			}
			yield newLine;
		}
		yield end;
	}

	const stored = form.files.find((file) => 'id' in file.source);
	if (stored === undefined || !('id' in stored.source)) {
		const chunks: Uint8Array[] = [];
		for await (const chunk of bytes()) chunks.push(chunk);
		return { content: Buffer.concat(chunks), headers };
	}
	// Community nodes may not import `stream`. The class of n8n's own stream has the same `from` method.
	const first = await open(stored.source.id);
	const streams = first.constructor as unknown as {
		from(chunks: AsyncIterable<Uint8Array>, options: { objectMode: boolean }): ByteStream;
	};
	const content = streams.from(bytes(first), { objectMode: false });
	content.once('close', () => first.destroy());
	return { content, headers };
}

function partHead(boundary: string, file: FilePart): string {
	return [
		`--${boundary}`,
		`Content-Disposition: form-data; name="${file.field}"; ${fileNameParameter(file.fileName)}`,
		`Content-Type: ${file.mimeType.replace(/[\r\n]/g, '') || 'application/octet-stream'}`,
		'',
		'',
	].join('\r\n');
}

/**
 * The file name in a part's header. Quotes, backslashes, line ends and lone surrogates cannot stand in a quoted string.
 * A name with one of them goes into `filename*` (RFC 5987), beside a plain name for old servers.
 */
function fileNameParameter(name: string): string {
	const wellFormed = name.replace(/\p{Surrogate}/gu, '\ufffd');
	if (!/["\\%\p{Cc}]/u.test(wellFormed)) return `filename="${wellFormed}"`;
	const plain = wellFormed.replace(/[^\w .-]/g, '_');
	const encoded = encodeURIComponent(wellFormed).replace(
		/['()*!]/g,
		(sign) => `%${sign.charCodeAt(0).toString(16).toUpperCase()}`,
	);
	return `filename="${plain}"; filename*=UTF-8''${encoded}`;
}

function fileName(binary: IBinaryData, fallback: string): string {
	return binary.fileName || `${fallback}${binary.fileExtension ? `.${binary.fileExtension}` : ''}`;
}
