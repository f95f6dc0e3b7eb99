/** The output item of a finished video: its description, and the files that the panel asks for. */
import type { INodeExecutionData } from 'n8n-workflow';

import type { TimeLimit } from '../../../api/patience';
import type { Server } from '../../../api/server';
import type { Job } from '../../../api/types';
import {
	captionFile,
	download,
	markCollected,
	posterFile,
	sheetFile,
	type Storing,
} from '../../../jobs/collect';
import { describeResult } from '../../../jobs/describe';

/** The wishes of the panel about the output. A parked execution keeps them until it wakes. */
export interface Delivery {
	outputField: string;
	/** The output fields for the captions, the poster and the contact sheet; "" for none. */
	srtField: string;
	posterField: string;
	sheetField: string;
	downloads: boolean;
	keepsOnServer: boolean;
	isSimple: boolean;
}

export async function deliver(
	server: Server<Storing>,
	job: Job,
	wanted: Delivery,
	itemIndex: number,
	limit?: TimeLimit,
): Promise<INodeExecutionData> {
	const item: INodeExecutionData = {
		json: await describeResult(server, job, wanted.isSimple),
		pairedItem: { item: itemIndex },
	};
	if (!wanted.downloads) return item;
	item.binary = { [wanted.outputField]: await download(server, job, limit) };
	if (wanted.srtField && job.links.captions_srt) {
		item.binary[wanted.srtField] = await captionFile(server, job);
	}
	if (wanted.posterField) item.binary[wanted.posterField] = await posterFile(server, job);
	if (wanted.sheetField && job.links.sheet) {
		item.binary[wanted.sheetField] = await sheetFile(server, job);
	}
	if (!wanted.keepsOnServer) await markCollected(server, job);
	return item;
}
