/**
 * The software of a new machine: an image with Lipsync inside, or a stock image and a script that installs it.
 *
 * The rules and the script are those of the server's cloud/software.py; a recorded file (tests/data/providers/stock.json)
 * holds both to the same text. Unlike `lipsync cloud up --from-source`, the node has no wheel to send.
 */
import { UserError } from 'n8n-workflow';

import { STOCK_IMAGE, publishedImage } from './published';
import { quoted } from './shell';

const SUFFIXES = ['.whl', '.tar.gz', '.zip'];

export interface Software {
	image: string;
	/** Run with bash in the image; "" runs the image's own program. */
	script: string;
}

/** From the node's fields: an image, else a source, else the published image. */
export function chooseSoftware(
	image: string,
	source: string,
	published: string = publishedImage(),
): Software {
	if (image !== '' && source !== '') {
		throw new UserError(
			'Docker Image and Source exclude each other: an image has Lipsync inside already',
		);
	}
	if (source === '') {
		const chosen = image || published;
		if (chosen !== '') return { image: chosen, script: '' };
		throw new UserError(
			'This copy of the node comes from no release, so it knows no published image',
			{
				description:
					'Write the https address of a wheel or source archive into Source, or an image of yours into Docker Image',
			},
		);
	}
	const isArchive = SUFFIXES.some((suffix) => source.split(/[?#]/)[0].endsWith(suffix));
	if (!source.startsWith('https://') || !isArchive) {
		throw new UserError(
			`Source must be an https address that ends in ${SUFFIXES.join(', ')}; "${source}" is not`,
		);
	}
	const plain = quoted(`lipsync-server @ ${source}`);
	return {
		image: STOCK_IMAGE,
		script: startScript(plain, quoted(`lipsync-server[gpu,s3] @ ${source}`)),
	};
}

/**
 * Installs Lipsync beside the image's torch, which stays as it is, and becomes the server. `plain`, without extras, is
 * installed within seconds and downloads the model files while `whole` is installed.
 */
function startScript(plain: string, whole: string): string {
	return [
		'set -eu',
		'export PIP_BREAK_SYSTEM_PACKAGES=1 PIP_ROOT_USER_ACTION=ignore PYTHONUNBUFFERED=1',
		': "${LIPSYNC_DATA_DIR:=/data}" "${LIPSYNC_WEIGHTS_DIR:=/weights}"',
		': "${TORCHINDUCTOR_CACHE_DIR:=$LIPSYNC_WEIGHTS_DIR/.compiled}"',
		': "${TRITON_CACHE_DIR:=$TORCHINDUCTOR_CACHE_DIR/triton}"',
		'export LIPSYNC_DATA_DIR LIPSYNC_WEIGHTS_DIR TORCHINDUCTOR_CACHE_DIR TRITON_CACHE_DIR',
		'uploads=$LIPSYNC_WEIGHTS_DIR/.uploads',
		'mkdir -p "$LIPSYNC_DATA_DIR" "$LIPSYNC_WEIGHTS_DIR" "$uploads"',
		'python=$(command -v python || command -v python3)',
		'installed=${HOME:-/root}/.lipsync-installed',
		'if [ ! -e "$installed" ]; then',
		`"$python" -m pip install --no-cache-dir ${plain}`,
		'download=',
		'if [ -n "${LIPSYNC_PROFILE:-}" ]; then',
		'"$python" -m lipsync_server.cli weights pull "$LIPSYNC_PROFILE" > /tmp/weights.log 2>&1 &',
		'download=$!',
		'fi',
		'if ! command -v gcc > /dev/null; then',
		'apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev python3-dev',
		'fi',
		'"$python" -c \'import torch; print("torch==" + torch.__version__)\' > /tmp/torch.txt',
		`"$python" -m pip install --no-cache-dir -c /tmp/torch.txt ${whole}`,
		'if [ -n "$download" ]; then',
		'kill "$download" 2> /dev/null || true',
		'wait "$download" || true',
		'fi',
		'touch "$installed"',
		'fi',
		'exec "$python" -m lipsync_server.cli serve',
		'',
	].join('\n');
}
