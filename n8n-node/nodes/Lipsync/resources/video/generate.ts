/** Video > Generate: the picture and the recording of every item become a video. */
import {
	NodeOperationError,
	jsonParse,
	type IDataObject,
	type IExecuteFunctions,
	type INodeExecutionData,
} from 'n8n-workflow';

import { serverUrl } from '../../api/client';
import { asNodeError, jobEnded } from '../../api/errors';
import { filePart, type Form } from '../../api/multipart';
import type { Job } from '../../api/types';
import { numberBetween, orFailed } from '../../items';
import { download, markCollected } from '../../jobs/collect';
import { describeResult, describeStatus } from '../../jobs/describe';
import { idempotencyKey, submit } from '../../jobs/submit';
import { TookTooLong, abandon, jobPath, look, waitForEnd } from '../../jobs/watch';

const MINUTE_MS = 60_000;
const QUEUE_PATIENCE_MS = 10 * MINUTE_MS;

/** All jobs are handed over first, then collected in the order of their items. */
export async function generate(context: IExecuteFunctions): Promise<INodeExecutionData[]> {
	const nItems = context.getInputData().length;
	const underWay = new Set<string>();
	try {
		const started: Array<string | INodeExecutionData> = [];
		for (let i = 0; i < nItems; i++) {
			started.push(
				await orFailed(context, i, async () => {
					const job = await start(context, i);
					underWay.add(job.id);
					return job.id;
				}),
			);
		}
		const output: INodeExecutionData[] = [];
		for (const [i, id] of started.entries()) {
			if (typeof id !== 'string') {
				output.push(id);
				continue;
			}
			output.push(await orFailed(context, i, async () => await finish(context, id, i)));
			underWay.delete(id);
		}
		return output;
	} catch (error) {
		if (error instanceof TookTooLong) underWay.delete(error.jobId);
		await abandon(context, [...underWay]);
		throw asNodeError(context, error);
	}
}

async function start(context: IExecuteFunctions, i: number): Promise<Job> {
	const more = context.getNodeParameter('additionalFields', i, {}) as IDataObject;
	const waits = context.getNodeParameter('wait', i) === 'poll';
	return await submit(context, {
		form: await readForm(context, more, i),
		key: text(more.idempotencyKey) || idempotencyKey(context, i),
		waitUntil: Date.now() + (waits ? timeoutMs(context, i) : QUEUE_PATIENCE_MS),
		itemIndex: i,
	});
}

async function finish(
	context: IExecuteFunctions,
	id: string,
	i: number,
): Promise<INodeExecutionData> {
	const videoUrl = await serverUrl(context, jobPath(id, '/video'));
	if (context.getNodeParameter('wait', i) === 'none') {
		const job = await look(context, id, i);
		return { json: describeStatus(job, videoUrl), pairedItem: { item: i } };
	}
	const more = context.getNodeParameter('additionalFields', i, {}) as IDataObject;
	const ended = await waitForEnd(context, id, timeoutMs(context, i), i);
	if (ended.state !== 'succeeded') throw jobEnded(context, ended, i);
	const item: INodeExecutionData = {
		json: describeResult(ended, videoUrl),
		pairedItem: { item: i },
	};
	// A binary cannot leave a tool of an AI agent: the agent gets the link.
	if (context.isToolExecution() || more.downloadVideo === false) return item;
	const field = context.getNodeParameter('outputField', i) as string;
	item.binary = { [field]: await download(context, ended, i) };
	if (more.markCollected !== false) await markCollected(context, ended, i);
	return item;
}

async function readForm(context: IExecuteFunctions, more: IDataObject, i: number): Promise<Form> {
	const form: Form = { texts: {}, files: [] };
	await addInput(context, form, 'image', 'image', i);
	await addInput(context, form, 'audio', 'audio', i);
	if (text(more.secondAudioField)) {
		form.files.push(await filePart(context, i, text(more.secondAudioField), 'second_audio'));
	} else {
		form.texts.second_audio_url = text(more.secondAudioUrl);
	}
	form.texts.prompt = text(context.getNodeParameter('prompt', i, ''));
	form.texts.engine = text(context.getNodeParameter('engine', i, 'auto'));
	form.texts.resolution = text(context.getNodeParameter('resolution', i, ''));
	form.texts.preset = text(context.getNodeParameter('preset', i, ''));
	form.texts.seed = text(context.getNodeParameter('seed', i, ''));
	form.texts.file_name = text(context.getNodeParameter('fileName', i, ''));
	form.texts.face_box = text(more.faceBox);
	form.texts.callback_url = text(more.callbackUrl);
	if (more.faceIndex !== undefined) form.texts.face_index = text(more.faceIndex);
	const options = engineOptions(context, more.engineOptions, i);
	if (options !== undefined) form.texts.options = options;
	for (const [name, value] of Object.entries(form.texts)) {
		if (value === '') delete form.texts[name];
	}
	return form;
}

async function addInput(
	context: IExecuteFunctions,
	form: Form,
	parameter: 'image' | 'audio',
	name: string,
	i: number,
): Promise<void> {
	if (context.getNodeParameter(`${parameter}Input`, i) === 'url') {
		const url = text(context.getNodeParameter(`${parameter}Url`, i));
		if (!/^https?:\/\//i.test(url)) {
			throw new NodeOperationError(
				context.getNode(),
				`The ${parameter} URL is ${JSON.stringify(url)}; it has to begin with http:// or https://`,
				{ description: 'Give an address that the Lipsync server can reach', itemIndex: i },
			);
		}
		form.texts[`${name}_url`] = url;
		return;
	}
	const field = context.getNodeParameter(`${parameter}Field`, i) as string;
	form.files.push(await filePart(context, i, field, name));
}

function engineOptions(context: IExecuteFunctions, value: unknown, i: number): string | undefined {
	const options: unknown =
		typeof value === 'string' ? jsonParse(value.trim() || '{}', { fallbackValue: null }) : value;
	if (options === undefined) return undefined;
	if (typeof options !== 'object' || options === null || Array.isArray(options)) {
		throw new NodeOperationError(context.getNode(), 'Engine Options is not a JSON object', {
			description:
				'Write it like {"head_motion": 0.5}; Server > Get Info lists what an engine takes',
			itemIndex: i,
		});
	}
	return Object.keys(options).length > 0 ? JSON.stringify(options) : undefined;
}

function timeoutMs(context: IExecuteFunctions, i: number): number {
	const minutes = context.getNodeParameter('timeoutMinutes', i, 120);
	return numberBetween(context, 'Timeout', minutes, [0.01, 10_080], i) * MINUTE_MS;
}

function text(value: unknown): string {
	return value === undefined || value === null ? '' : String(value).trim();
}
