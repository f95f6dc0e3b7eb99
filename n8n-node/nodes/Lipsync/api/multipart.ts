/**
 * A multipart/form-data body made from n8n's binaries without holding them in memory.
 *
 * Files that n8n keeps on disk, in S3 or in its database are read in chunks while they are sent; only files of the old
 * in-memory mode are buffers. The length is known beforehand, so that the server can refuse before anything is sent.
 */
import { randomUUID } from 'crypto';
import type { IBinaryData, IDataObject, IExecuteFunctions } from 'n8n-workflow';

import type { ByteStream } from './client';

export interface FilePart {
	field: string;
	fileName: string;
	mimeType: string;
	sizeBytes: number;
	/** Where n8n keeps the file, or the file itself. */
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

/** The binary in `field` of an item as a part called `name`. */
export async function filePart(
	context: IExecuteFunctions,
	itemIndex: number,
	field: string,
	name: string,
): Promise<FilePart> {
	const binary = context.helpers.assertBinaryData(itemIndex, field);
	const part = { field: name, fileName: fileName(binary, name), mimeType: binary.mimeType };
	if (binary.id) {
		const { fileSize } = await context.helpers.getBinaryMetadata(binary.id);
		return { ...part, sizeBytes: fileSize, source: { id: binary.id } };
	}
	const buffer = await context.helpers.getBinaryDataBuffer(itemIndex, field);
	return { ...part, sizeBytes: buffer.length, source: { buffer } };
}

/** The body that sends `form`, with its headers. Call it anew for every attempt. */
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
	// Community nodes may not import `stream`; the stream that n8n hands out knows the class that makes one.
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
		`Content-Disposition: form-data; name="${file.field}"; filename="${quoted(file.fileName)}"`,
		`Content-Type: ${file.mimeType.replace(/[\r\n]/g, '') || 'application/octet-stream'}`,
		'',
		'',
	].join('\r\n');
}

/** As browsers write names into a form: UTF-8, with the three characters escaped that would break the header. */
function quoted(name: string): string {
	return name.replace(/\r/g, '%0D').replace(/\n/g, '%0A').replace(/"/g, '%22');
}

function fileName(binary: IBinaryData, fallback: string): string {
	return binary.fileName || `${fallback}${binary.fileExtension ? `.${binary.fileExtension}` : ''}`;
}
